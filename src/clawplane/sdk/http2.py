"""The server's half of HTTP/2, as far as unary gRPC calls need it. No I/O: bytes in, complete calls and bytes out.

Theory of operation. `receive` takes whatever arrived, and `take_calls` hands out the calls that became complete by it;
`answer` and `refuse` end a call; `take_output` hands out what has to be sent and is asked again until it has nothing.

A message is buffered until it is whole, so memory is the thing to defend:

* A stream starts with a window of 64 KiB, and the connection's own window is refilled at once. So buffers are bounded
  by the number of streams, and streams never wait for each other.
* A message longer than that window gets more only when `Room` grants it. A declared length reserves a right, not
  memory: buffers grow with what really arrives.
* A stream keeps its place until its call is answered, even when the client reset it, so opening and resetting streams
  in a loop piles up no work.
* A response is cut into frames only as fast as the transport takes them, and one that waits is shared, not copied.

What a client can repeat for free (pings, settings, resets, empty frames) is counted, and ends the connection when no
call is answered in between. Header blocks are bounded before and after decompression. Any violation raises
`Http2Error`: the connection is beyond repair, and the transport closes it after sending what `take_output` has. Calls
that were complete before the violation are served all the same.
"""

from collections.abc import Callable
from typing import NamedTuple

from clawplane.sdk import frames as f
from clawplane.sdk.headers import HeaderReader
from clawplane.sdk.limits import Limits, Room
from clawplane.sdk.outbox import Outbox
from clawplane.sdk.stream import RefusedError, Stream

_CONNECTION_WINDOW = 1 << 20
_TINY = 64  # a part of a message below this is counted as if it were empty


class Http2Error(Exception):
    """The peer broke the protocol or a limit; the connection must be closed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Call(NamedTuple):
    """One complete request: its gRPC path and its message without the prefix."""

    stream_id: int
    path: str
    message: memoryview


class _Block(NamedTuple):
    """A header block whose end has not come yet."""

    stream_id: int
    flags: int
    content: bytearray
    began: float


class Connection:
    """One client's connection."""

    def __init__(self, limits: Limits, room: Room, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        """Start with our settings in the output; `wake` is called when output appears outside `receive`."""
        self._limits = limits
        self._room = room
        self._clock = clock
        self._wake = wake
        self._began = clock()
        self._rest = b""
        self._preface_came = self._greeted = False  # greeted: the first settings have come, too
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._block: _Block | None = None
        self._headers_in = HeaderReader(limits.max_header_block)
        self._window = _CONNECTION_WINDOW
        self._used = 0  # of the window, and not yet given back
        self._first_window_out = f.FIRST_WINDOW
        self._out = Outbox()
        self._idle_frames = 0
        self._calls: list[Call] = []
        self._greet()

    @property
    def calls_open(self) -> int:
        """Calls that began and are not answered."""
        return len(self._streams)

    def receive(self, data: bytes) -> None:
        """Take what arrived."""
        if self._rest:
            data = self._rest + data
        at = 0 if self._preface_came else self._preface(data)
        end = len(data)
        while self._preface_came and end - at >= f.HEAD_SIZE:
            high, low, kind, flags, stream_id = f.HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > f.MAX_FRAME:
                raise Http2Error(f.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            if end - at - f.HEAD_SIZE < size:
                break
            at += f.HEAD_SIZE
            self._frame(kind, flags, stream_id & f.MAX_WINDOW, data[at : at + size])
            at += size
        self._rest = data[at:]

    def take_calls(self) -> list[Call]:
        """Return the calls that are complete, in order; each must be answered or refused."""
        calls, self._calls = self._calls, []
        return calls

    def answer(self, stream_id: int, message: bytes) -> None:
        """Answer a call with status OK."""
        stream = self._streams[stream_id]
        stream.release()
        self._idle_frames = 0
        if stream.reset or self._out.answer(stream, message):
            del self._streams[stream_id]

    def refuse(self, stream_id: int, status: int, text: str) -> None:
        """End a call with a gRPC status other than OK, whether its request has ended or not."""
        stream = self._streams.pop(stream_id)
        stream.release()
        if stream.reset:
            return
        self._out.headers(f.END_STREAM, stream_id, f.error_headers(status, text))
        if not stream.ended:
            self._out.reset(stream_id, f.NO_ERROR)

    def take_output(self) -> bytes:
        """Return bytes to send, empty when there are none; bounded, so ask again until it is empty."""
        output, done = self._out.take()
        for stream in done:
            del self._streams[stream.id]
        return output

    def check(self) -> None:
        """Refuse what has stalled; raise when the connection itself has."""
        now = self._clock()
        if not self._greeted and now - self._began > self._limits.handshake_seconds:
            raise Http2Error(f.PROTOCOL_ERROR, "no HTTP/2 greeting came")
        if self._block and now - self._block.began > self._limits.stall_seconds:
            raise Http2Error(f.PROTOCOL_ERROR, "a header block does not end")
        for stream in list(self._streams.values()):
            if not stream.ended and not stream.waiting and now - stream.at > self._limits.stall_seconds:
                self.refuse(stream.id, f.DEADLINE_EXCEEDED, "the request did not arrive in time")

    def announce_end(self) -> None:
        """Ask the client to open no further call; those it has sent are still served."""
        self._out.frame(f.GOAWAY, 0, 0, f.U32.pack(f.MAX_WINDOW) + f.U32.pack(f.NO_ERROR))

    def fail(self, error: Http2Error) -> None:
        """Say why the connection ends."""
        content = f.U32.pack(self._last_id) + f.U32.pack(error.code) + error.reason.encode()[:200]
        self._out.frame(f.GOAWAY, 0, 0, content)

    def lost(self) -> None:
        """Release everything that no call uses; calls in progress release theirs when they are answered."""
        self._rest = b""
        for stream in list(self._streams.values()):
            self._abandon(stream)

    # -- frames ------------------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        settings = f.SETTING.pack(f.MAX_CONCURRENT_STREAMS, self._limits.max_streams)
        settings += f.SETTING.pack(f.MAX_HEADER_LIST_SIZE, self._limits.max_header_block)
        self._out.frame(f.SETTINGS, 0, 0, settings)
        self._out.credit(0, _CONNECTION_WINDOW - f.FIRST_WINDOW)

    def _preface(self, data: bytes) -> int:
        """Return how many bytes come before the first frame."""
        if not data.startswith(f.PREFACE[: len(data)]):
            raise Http2Error(f.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface_came = len(data) >= len(f.PREFACE)
        return len(f.PREFACE) if self._preface_came else 0

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._greeted:
            if kind != f.SETTINGS or flags & f.ACK:
                raise Http2Error(f.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._greeted = True
        if self._block is not None and kind != f.CONTINUATION:
            raise Http2Error(f.PROTOCOL_ERROR, "a header block is interrupted")
        if kind == f.DATA:
            self._data(flags, stream_id, payload)
            return
        self._idle()
        if kind == f.HEADERS:
            self._headers(flags, stream_id, payload)
        elif kind == f.WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == f.PING:
            _must(len(payload) == 8 and stream_id == 0, "a malformed PING")
            if not flags & f.ACK:
                self._out.frame(f.PING, f.ACK, 0, payload)
        elif kind == f.SETTINGS:
            self._settings(flags, stream_id, payload)
        elif kind == f.RST_STREAM:
            self._rst_stream(stream_id, payload)
        elif kind == f.CONTINUATION:
            self._continuation(flags, stream_id, payload)
        elif kind == f.PUSH_PROMISE:
            raise Http2Error(f.PROTOCOL_ERROR, "a client cannot push")
        # PRIORITY, GOAWAY and unknown types need no reaction

    def _idle(self) -> None:
        """Count a frame that brings no message; a flood of them ends the connection."""
        self._idle_frames += 1
        if self._idle_frames > self._limits.max_idle_frames:
            raise Http2Error(f.ENHANCE_YOUR_CALM, "too many frames without a call")

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._spend(size)
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            _must(0 < stream_id <= self._last_id, "data for a stream that was never opened")
            self._idle()  # what was under way when we refused the call, or when the client reset it
            return
        stream.window_in -= size
        if stream.window_in < 0:
            raise Http2Error(f.FLOW_CONTROL_ERROR, "more data than the stream's window")
        if flags & f.PADDED:
            payload = _unpadded(payload)
        end = bool(flags & f.END_STREAM)
        if len(payload) < _TINY and not end:
            self._idle()
        stream.at = self._clock()
        self._take(stream, payload, end)

    def _take(self, stream: Stream, payload: bytes, end: bool) -> None:
        try:
            message = stream.take(payload, end)
        except RefusedError as refused:
            self.refuse(stream.id, refused.status, refused.text)
            return
        if message is not None:
            self._calls.append(Call(stream.id, stream.path, message))
        elif stream.needs_room():
            self._ask_room(stream)

    def _ask_room(self, stream: Stream) -> None:
        def granted(more: int) -> None:
            stream.at = self._clock()
            self._out.credit(stream.id, more)
            self._wake()

        stream.ask_room(granted)

    def _spend(self, size: int) -> None:
        """Account for received data and give the connection's window back at once, in few frames."""
        self._window -= size
        self._used += size
        if self._window < 0:
            raise Http2Error(f.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if self._used >= _CONNECTION_WINDOW >> 2:
            self._out.credit(0, self._used)
            self._window += self._used
            self._used = 0

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        _must(stream_id % 2 == 1, "a request on a stream that clients cannot open")
        if flags & f.PADDED:
            payload = _unpadded(payload)
        if flags & f.HAS_PRIORITY:
            _must(len(payload) >= 5, "a malformed HEADERS")
            payload = payload[5:]
        block = _Block(stream_id, flags, bytearray(payload), self._clock())
        if flags & f.END_HEADERS:
            self._end_block(block)
        else:
            self._block = block

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise Http2Error(f.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        block.content.extend(payload)
        if len(block.content) > self._limits.max_header_block:
            raise Http2Error(f.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & f.END_HEADERS:
            self._block = None
            self._end_block(block)

    def _end_block(self, block: _Block) -> None:
        try:
            head = self._headers_in.read(bytes(block.content))  # always: the table has to follow the client's
        except ValueError as error:
            raise Http2Error(f.COMPRESSION_ERROR, str(error)) from None
        end = bool(block.flags & f.END_STREAM)
        stream = self._streams.get(block.stream_id)
        if stream is not None:  # trailers of a request; gRPC clients send none, HTTP/2 allows them
            _must(end and not stream.ended, "a second header block within a call")
            self._take(stream, b"", end=True)
            return
        if block.stream_id <= self._last_id:
            _must(end, "a stream is opened twice")  # trailers of a call that was refused meanwhile
            return
        self._last_id = block.stream_id
        if len(self._streams) >= self._limits.max_streams:
            self._out.reset(block.stream_id, f.REFUSED_STREAM)
            return
        stream = Stream(block.stream_id, head.path, self._limits, self._room)
        stream.window_out = self._first_window_out
        stream.at = self._clock()
        self._streams[stream.id] = stream
        if head.problem:
            self.refuse(stream.id, head.status, head.problem)
        elif end:
            self._take(stream, b"", end=True)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _must(stream_id == 0 and len(payload) % 6 == 0, "a malformed SETTINGS")
        if flags & f.ACK:
            return
        for name, value in f.SETTING.iter_unpack(payload):
            if name == f.INITIAL_WINDOW_SIZE:
                self._shift_windows(value - self._first_window_out)
                self._first_window_out = value
            elif name == f.HEADER_TABLE_SIZE and value < f.DEFAULT_TABLE:
                self._out.empty_table()
        self._out.frame(f.SETTINGS, f.ACK, 0)

    def _shift_windows(self, by: int) -> None:
        _must(self._first_window_out + by <= f.MAX_WINDOW, "a window that is too large")
        for stream in self._streams.values():
            stream.window_out += by
            _must(stream.window_out <= f.MAX_WINDOW, "a window that is too large")

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        _must(len(payload) == 4, "a malformed WINDOW_UPDATE")
        more = int(f.U32.unpack(payload)[0]) & f.MAX_WINDOW
        _must(more > 0, "a window update of nothing")
        _must(stream_id <= self._last_id, "a window for a stream that was never opened")
        if stream_id == 0:
            self._out.window += more
            _must(self._out.window <= f.MAX_WINDOW, "a window that is too large")
            return
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.window_out += more
            _must(stream.window_out <= f.MAX_WINDOW, "a window that is too large")

    def _rst_stream(self, stream_id: int, payload: bytes) -> None:
        _must(len(payload) == 4 and 0 < stream_id <= self._last_id, "a malformed RST_STREAM")
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._abandon(stream)

    def _abandon(self, stream: Stream) -> None:
        """Stop serving a client that left; a call in progress keeps its place until it is answered."""
        stream.reset = True
        if not stream.ended or stream.answering:
            self._out.drop(stream)
            stream.release()
            del self._streams[stream.id]


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Http2Error(f.PROTOCOL_ERROR, otherwise)


def _unpadded(payload: bytes) -> bytes:
    _must(len(payload) > 0 and payload[0] < len(payload), "more padding than payload")
    return payload[1 : len(payload) - payload[0]]
