"""One connection's way out: frames to send, the client's windows, and answers cut to fit them.

An answer that waits is not copied: a client may ask for the same large input in every call and read none of them.
"""

from collections import deque

from clawplane.sdk import frames as f
from clawplane.sdk.stream import PREFIX, Stream

_STEP = 256 << 10  # bytes of answers cut at a time, so that a large input does not fill the transport's buffer at once


class Outbox:
    """Bytes on their way to one client."""

    def __init__(self) -> None:
        self.window = f.FIRST_WINDOW  # how much more the client takes on this connection
        self._frames: list[bytes] = []
        self._answers: deque[Stream] = deque()
        self._table_notice = b""

    def frame(self, kind: int, flags: int, stream_id: int, payload: bytes = b"") -> None:
        """Queue one frame."""
        self._frames.append(f.frame(kind, flags, stream_id, payload))

    def reset(self, stream_id: int, code: int) -> None:
        """Queue the end of a stream."""
        self.frame(f.RST_STREAM, 0, stream_id, f.U32.pack(code))

    def credit(self, stream_id: int, more: int) -> None:
        """Queue a larger window for the client; stream 0 is the connection."""
        self.frame(f.WINDOW_UPDATE, 0, stream_id, f.U32.pack(more))

    def empty_table(self) -> None:
        """Begin the next header block by emptying the header table, as the client made it smaller."""
        self._table_notice = f.EMPTY_TABLE

    def headers(self, flags: int, stream_id: int, block: bytes) -> None:
        """Queue a header block."""
        notice, self._table_notice = self._table_notice, b""
        self.frame(f.HEADERS, flags | f.END_HEADERS, stream_id, notice + block)

    def answer(self, stream: Stream, message: bytes) -> bool:
        """Queue a successful response; True when all of it is queued, False when the client's windows hold it back."""
        self.headers(0, stream.id, f.RESPONSE_HEADERS)
        size = PREFIX + len(message)
        lead = b"\x00" + f.U32.pack(len(message))
        if size <= min(f.MAX_FRAME, self.window, stream.window_out) and not self._answers:
            self.window -= size
            self._frames.append(f.frame(f.DATA, 0, stream.id, lead + message) + _ok_trailers(stream.id))
            return True
        stream.lead, stream.answer = lead, memoryview(message)
        self._answers.append(stream)
        return False

    def drop(self, stream: Stream) -> None:
        """Forget what is left of an answer."""
        if stream.answering:
            stream.lead, stream.answer = b"", memoryview(b"")
            self._answers.remove(stream)

    def take(self) -> tuple[bytes, list[Stream]]:
        """Return bytes to send, and the streams whose answers ended with them."""
        done = self._cut() if self._answers else []
        output = b"".join(self._frames)
        self._frames.clear()
        return output, done

    def _cut(self) -> list[Stream]:
        """Cut waiting answers into frames, in turn, as far as windows and one step allow."""
        budget = _STEP
        done = []
        for _ in range(len(self._answers)):
            stream = self._answers.popleft()
            budget -= self._cut_one(stream, budget)
            if stream.answering:
                self._answers.append(stream)
            else:
                self._frames.append(_ok_trailers(stream.id))
                done.append(stream)
        return done

    def _cut_one(self, stream: Stream, budget: int) -> int:
        cut = 0
        while stream.answering and cut < budget:
            size = min(f.MAX_FRAME, len(stream.lead) + len(stream.answer), self.window, stream.window_out)
            if size <= 0:
                break
            lead, stream.lead = stream.lead[:size], stream.lead[size:]
            of_message = size - len(lead)
            self.frame(f.DATA, 0, stream.id, lead + stream.answer[:of_message])
            stream.answer = stream.answer[of_message:]
            stream.window_out -= size
            self.window -= size
            cut += size
        return cut


def _ok_trailers(stream_id: int) -> bytes:
    return f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, stream_id, f.OK_TRAILERS)
