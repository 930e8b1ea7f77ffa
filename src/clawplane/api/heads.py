"""Bound what a request may say before its body, in bytes and in seconds, and how long its answer may lie unread.

The HTTP server bounds none of it: whoever reaches the port, without any key, could make it keep gigabytes of headers,
or hold a connection for ever with half a request line. `BoundedHead` counts the bytes that bring neither the start of a
request nor a piece of its body, which are its head, its trailers and the framing of chunks, and times the head.

A client that sends its request and then reads nothing would keep its answer in memory, and whatever makes the answer at
work, for as long as it likes. It is hung up on once it has taken nothing for a while of what waits for it; to whoever
answers, that is a client that left. A slow client is not: it takes something.

A client that is answered before it has sent everything is heard out for a while (lingering.py).

It also gives every request its `Connection` (delivery.py), by which a handler learns that its client has gone, that the
server is to stop, or that an answer arrived.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clawplane.api.delivery import EXTENSION, Connection
from clawplane.api.lingering import Lingering, linger

HEAD_BYTES: Final = 64 << 10
HEAD_SECONDS: Final = 30.0
UNREAD_SECONDS: Final = 60.0


class JoinedWrites:
    """A request's way to its transport, on which head and body of an answer go out in one piece.

    The server writes them one after the other, and each write is a call of the kernel that wakes the client. What is
    written first waits for the second, and at most for the next turn of the loop.
    """

    __slots__ = ("_began", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._began = False
        self._head = b""

    def write(self, data: bytes) -> None:
        """Keep what comes first for a moment, pass the rest on with it."""
        if not self._began:
            self._began = True
            self._head = data
            self._loop.call_soon(self._flush)
            return
        head, self._head = self._head, b""
        if head or data:
            self._transport.write(head + data if head else data)

    def close(self) -> None:
        """Close behind what was written; the protocol knows how, and is not kept here, for that would be a cycle."""
        self._flush()
        protocol = self._transport.get_protocol()
        if isinstance(protocol, BoundedHead):
            protocol.end()
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether the transport is being closed."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not isinstance(self._transport.get_protocol(), Lingering):  # it was hung up on meanwhile
            self._transport.write(head)


class BoundedHead(HttpToolsProtocol):
    """The server's protocol with these bounds; a request beyond them is answered 431 or 408 and hung up on.

    What arrives in one read is parsed before it is judged, so a head may exceed the bound by one read.
    """

    head_seconds: float = HEAD_SECONDS
    unread_seconds: float = UNREAD_SECONDS
    _counted = 0
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._connection = Connection(transport, self.loop)
        self._extensions: dict[str, Any] = {EXTENSION: self._connection}
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        self._stop_watching()
        super().connection_lost(exc)
        self._connection.lost()

    def eof_received(self) -> None:
        """Look whether the client had everything before it hung up; the connection closes after this."""
        self._connection.heard()

    def pause_writing(self) -> None:
        """Watch whether the client takes anything: more waits for it than is sent ahead."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Stop watching: it has taken nearly everything."""
        self._stop_watching()
        super().resume_writing()

    def shutdown(self) -> None:
        """Let what waits come to an end."""
        super().shutdown()
        if self.transport.get_protocol() is not self:  # it has its answer, and is only heard out
            self.transport.close()
        self._connection.leave()

    def data_received(self, data: bytes) -> None:
        """Count, parse, and hang up on what is too much."""
        self._counted += len(data)
        self._connection.heard()
        super().data_received(data)
        if self._counted > HEAD_BYTES:
            self._hang_up(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Count a new head."""
        self._counted = 0
        self._connection.whole = False
        if self._timer is None:
            self._expect_head()
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        """Stop timing the head; what comes now is a body."""
        self._stop_timer()
        self._counted = 0
        super().on_headers_complete()
        cycle: Any = self.cycle
        if cycle is not None and cycle.transport is self.transport:
            cycle.transport = JoinedWrites(self.transport, self.loop)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, which the edge counts."""
        self._counted = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin anew."""
        self._counted = 0
        self._connection.whole = True
        super().on_message_complete()

    def end(self) -> None:
        """Close behind an answer; a client that is still sending its request is heard out first."""
        if self.cycle is not None and self.cycle.more_body:
            self.flow.resume_reading()
            linger(self.transport, self, self.loop)
        else:
            self.transport.close()

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self._hang_up, b"408 Request Timeout")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_reader(self) -> None:
        self._stop_watching()
        waiting = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self.unread_seconds, self._look_at_reader, waiting)

    def _look_at_reader(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:
            self._watch_reader()
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        """Say that what came is no HTTP, and hang up."""
        self._hang_up(b"400 Bad Request", msg.encode())

    def _hang_up(self, status: bytes, text: bytes = b"") -> None:
        """Answer out of turn, and close once the client has stopped sending; whatever is at work hears that it left.

        Nothing is said where another answer may be half out: it would be read as a part of that.
        """
        self._stop_timer()
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        cycle: Any = self.cycle
        waited_for = cycle is not None and not cycle.response_complete
        if self.pipeline or (waited_for and cycle.response_started):
            self.transport.close()
            return
        self._connection.lost()
        if waited_for:  # it must not write any more
            cycle.disconnected, cycle.waiting_for_100_continue = True, False
            cycle.message_event.set()
        head = b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        self.transport.write(head % (status, len(text)) + text)
        self.flow.resume_reading()
        linger(self.transport, self, self.loop)


def protocol(*, unread_seconds: float) -> type[BoundedHead]:
    """Return the protocol with an operator's bound."""
    return type("BoundedProtocol", (BoundedHead,), {"unread_seconds": unread_seconds})
