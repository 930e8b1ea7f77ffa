"""One connection's transport: bytes between the socket and `http2.Connection`, with backpressure both ways."""

import asyncio
from collections.abc import Callable
from typing import cast

from clawplane.sdk.http2 import Call, Connection, Http2Error
from clawplane.sdk.limits import Limits, Room

_LAST_WORDS_SECONDS = 1.0  # how long a connection that we end may take to read why


class Peer(asyncio.Protocol):
    """A client, as the event loop sees it.

    While the client does not read our answers we read nothing from it, so what it can make us queue is bounded.
    """

    def __init__(
        self,
        limits: Limits,
        room: Room,
        *,
        admit: Callable[["Peer"], bool],
        called: Callable[["Peer", Call], None],
        lost: Callable[["Peer"], None],
    ) -> None:
        """Ask `admit` once connected; report complete calls and the end of the connection."""
        self._loop = asyncio.get_running_loop()
        self._http = Connection(limits, room, self._loop.time, self._flush)
        self._admit = admit
        self._called = called
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._full = False

    def answer(self, stream_id: int, message: bytes) -> None:
        """Answer a call."""
        self._http.answer(stream_id, message)
        self._flush()

    def refuse(self, stream_id: int, status: int, text: str) -> None:
        """End a call with a gRPC status."""
        self._http.refuse(stream_id, status, text)
        self._flush()

    def announce_end(self) -> None:
        """Ask the client to finish what it began and to go."""
        self._http.announce_end()
        self._flush()

    def drop(self) -> None:
        """Close the connection without another word."""
        if self._transport is not None:
            self._transport.abort()

    def check(self) -> None:
        """End what has stalled."""
        try:
            self._http.check()
        except Http2Error as error:
            self._fail(error)
        self._flush()

    # -- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, unless there are too many."""
        self._transport = cast(asyncio.Transport, transport)  # a stream socket's; uvloop's has another base class
        if self._admit(self):
            self._flush()
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand on the calls that are complete now."""
        failure: Http2Error | None = None
        try:
            self._http.receive(data)
        except Http2Error as error:
            failure = error
        for call in self._http.take_calls():
            self._called(self, call)
        if failure is None:
            self._flush()
        else:
            self._fail(failure)

    def pause_writing(self) -> None:
        """Read no more requests while the client does not read our answers."""
        self._full = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._full = False
        self._flush()
        if self._transport is not None and not self._full and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; its calls in progress come to their end."""
        self._transport = None
        self._http.lost()
        self._lost(self)

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while not self._full:
            output = self._http.take_output()
            if not output:
                break
            transport.write(output)

    def _fail(self, error: Http2Error) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._http.fail(error)
        self._flush()
        transport.close()
        self._loop.call_later(_LAST_WORDS_SECONDS, transport.abort)
