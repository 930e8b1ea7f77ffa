"""Keep what a program prints: the beginning and the end of each stream, the whole of it in a file, and tell it live.

Up to a cap the text is kept whole; beyond it the first and the last half of the cap stay, with a line between them
that says what is missing, and all of it goes to a private file (spill.py). Bytes are decoded when the pieces are
joined, and for the listener incrementally, so that no character is split at the border of two reads.
"""

from __future__ import annotations

import codecs
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec

from clawplane.domain.host_tasks import TaskReport

OUTPUT_BYTES: Final = 10 << 20
"""What of one stream is kept in a report."""
LIVE_BYTES: Final = 16 << 20
"""What of one stream is told while it runs; the rest is in the report and in the file."""
_MARK_ROOM: Final = 200

Tell = Callable[[str, str], None]
"""Hear a piece of text of a stream (stdout, stderr) while a task runs; must not wait."""
OpenSink = Callable[[str], Awaitable["Sink | None"]]
"""Open what keeps the whole of a stream, if there is something that can."""


class Sink(Protocol):
    """Where the whole of a stream is kept; see spill.Spill."""

    async def write(self, data: bytes) -> None:
        """Keep more; never raises."""
        ...

    async def close(self) -> None:
        """Keep what is not kept yet; there is no more."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """Return path, bytes and whether it is complete."""
        ...


async def nowhere(stream: str) -> Sink | None:
    """Keep nothing beyond what a report has."""
    return None


def nobody(stream: str, text: str) -> None:
    """Tell nobody."""


class Capture:
    """One stream of one program."""

    def __init__(
        self,
        stream: str,
        *,
        tell: Tell = nobody,
        cap: int = OUTPUT_BYTES,
        live: int = LIVE_BYTES,
        spill: OpenSink = nowhere,
    ) -> None:
        self._stream = stream
        self._tell = tell
        self._half = max(cap // 2, 1)
        self._open_spill = spill
        self._sink: Sink | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._live = self._most_live = live
        self.total = 0

    async def take(self, data: bytes) -> None:
        """Keep a piece; waits while it is written to the file."""
        self._tell_live(data)
        beyond = self.total + len(data) > 2 * self._half
        if beyond and self.total <= 2 * self._half:
            self._sink = await self._open_spill(self._stream)
            if self._sink is not None:
                await self._sink.write(bytes(self._head) + b"".join(self._tail))
        self.total += len(data)
        if self._sink is not None:
            await self._sink.write(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_bytes += len(data)
            while self._tail_bytes - len(self._tail[0]) >= self._half:
                self._tail_bytes -= len(self._tail.popleft())

    async def close(self) -> None:
        """Tell what is left of a character that never became whole, and close the file."""
        if self._live > 0 and (rest := self._decoder.decode(b"", True)):
            self._tell(self._stream, rest)
        if self._sink is not None:
            await self._sink.close()

    @property
    def text(self) -> str:
        """Return what is kept, with a mark where something is missing."""
        tail = b"".join(self._tail)
        if self.total <= 2 * self._half:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        head = bytes(self._head).decode("utf-8", "ignore")
        return head + cut_mark(self.total - 2 * self._half, self.total) + _whole_start(tail[-self._half :])

    @property
    def metadata(self) -> dict[str, Any]:
        """Return what a report says of a stream that was cut: bytes, and where the whole of it is; else nothing."""
        if self.total <= 2 * self._half:
            return {}
        return {"bytes": self.total, "cut": True, **({} if self._sink is None else self._sink.metadata)}

    def _tell_live(self, data: bytes) -> None:
        if self._live <= 0:
            return
        text = self._decoder.decode(data[: self._live])
        self._live -= len(data)
        if text:
            self._tell(self._stream, text)
        if self._live <= 0:
            self._tell(self._stream, f"\n[live output ends here after {self._most_live} bytes; the result has more]\n")


def cut_mark(missing: int, total: int) -> str:
    """Return what stands in a text where some of it was left out; sizes in bytes."""
    return f"\n[... {missing} bytes left out of {total} ...]\n"


def cut(text: str, most: int) -> str:
    """Return a text of at most `most` bytes of UTF-8: whole, or its two ends with a mark between them."""
    if len(text) * 4 <= most or len(raw := text.encode("utf-8", "replace")) <= most:
        return text
    half = max((most - _MARK_ROOM) // 2, 0)
    tail = _whole_start(raw[-half:]) if half else ""
    return raw[:half].decode("utf-8", "ignore") + cut_mark(len(raw) - 2 * half, len(raw)) + tail


def fitted(report: TaskReport, most: int) -> TaskReport:
    """Return a report whose texts, as JSON with ASCII escapes, take at most `most` bytes; for a server with a limit."""
    room = most - 4096 - _json_size(report.metadata) - _json_size(report.error)
    sizes = {"stdout": _json_size(report.stdout), "stderr": _json_size(report.stderr)}
    if sum(sizes.values()) <= room:
        return report
    # the smaller of the two may take up to half, the other one has what is left
    small = "stdout" if sizes["stdout"] <= sizes["stderr"] else "stderr"
    large = "stderr" if small == "stdout" else "stdout"
    shares = {small: min(sizes[small], room // 2)}
    shares[large] = room - shares[small]
    texts = {name: _cut_to_json(getattr(report, name), shares[name]) for name in sizes}
    told = {**report.metadata, "cut": True}
    return msgspec.structs.replace(report, **texts, metadata=told)


def _cut_to_json(text: str, most: int) -> str:
    size = _json_size(text)
    while size > most:
        raw = len(text.encode("utf-8", "replace"))
        text = cut(text, max(raw * most // size * 9 // 10, _MARK_ROOM))
        size, before = _json_size(text), size
        if size >= before:
            return ""
    return text


def _json_size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=True))


def _whole_start(raw: bytes) -> str:
    """Decode, less the rest of a character that began before."""
    start = 0
    while start < min(3, len(raw)) and raw[start] & 0xC0 == 0x80:
        start += 1
    return raw[start:].decode("utf-8", "replace")
