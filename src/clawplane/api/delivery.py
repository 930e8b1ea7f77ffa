"""Know whether an answer reached its client, and whether the client is still there.

Theory of operation. A claimed task and a fetched result change hands with the answer that carries them, so the answer
must be known to have arrived. That a write succeeded says nothing: the kernel takes bytes for clients that are long
gone. What counts is the acknowledgement of the client's own kernel, which Linux tells as the number of bytes in the
send queue that are not acknowledged yet (SIOCOUTQ). There is no event for it reaching zero; it is looked at when the
client says something (its next request carries the acknowledgement), when it hangs up, and by a timer whose steps grow.
A client that acknowledges nothing more for STALL_SECONDS is cut off, so that it cannot receive later what was taken
back from it.

An answer after which the connection closes must be checked before it is closed: the caller sends the whole body, asks
`delivered`, and only then ends the response.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from typing import Final, TypeVar

T = TypeVar("T")

EXTENSION: Final = "clawplane.connection"
"""The key in an ASGI scope's extensions under which a request finds its `Connection`."""
STALL_SECONDS: Final = 10.0

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25
_NOTHING: Final = struct.pack("i", 0)


class Connection:
    """One client's connection; made by the server's protocol, used by one request at a time."""

    __slots__ = ("_gone", "_loop", "_lost", "_transport", "_waiting", "leaving", "stall_seconds", "whole")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._gone: asyncio.Future[None] | None = None
        self._waiting: list[asyncio.Future[bool]] = []
        self._lost = False
        self.leaving = False
        """Whether the server is about to stop, so that it closes the connection behind the next answer."""
        self.whole = False
        """Whether all of the request is here, to the end of its body."""
        self.stall_seconds = STALL_SECONDS

    # what a request asks

    def gone(self) -> asyncio.Future[None]:
        """Return a future that is done when nobody waits for this request's answer, or the server is to stop."""
        self._gone = self._loop.create_future()
        if self._lost or self.leaving:
            self._gone.set_result(None)
        return self._gone

    async def delivered(self) -> bool:
        """Return whether everything that was written has been acknowledged; False once the connection is lost."""
        if self._is_lost() or self._transport.is_closing():
            return False
        await asyncio.sleep(0)  # what was written goes out at the end of the loop's turn
        if not self._is_lost() and not self._outstanding():
            return True
        pause, stalled, left = 0.0, 0.0, 1 << 62
        while True:
            if await self._turn(pause):
                return True
            if self._is_lost() or self._transport.is_closing():
                return False
            now_left = self._outstanding()
            if not now_left:
                return True
            stalled = 0.0 if now_left < left else stalled + pause
            left = now_left
            if stalled >= self.stall_seconds:
                self._transport.abort()
                return False
            pause = min(max(_FIRST_PAUSE, pause * 2), _LONGEST_PAUSE)

    async def _turn(self, seconds: float) -> bool:
        """Wait for the client to say something; True when it has everything."""
        turn: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append(turn)
        timer = self._loop.call_later(seconds, _resolve, turn, False)
        try:
            return await turn
        finally:
            timer.cancel()
            if turn in self._waiting:
                self._waiting.remove(turn)

    # what the protocol tells

    def heard(self) -> None:
        """Look again: the client said something, or hung up."""
        if self._waiting and not self._outstanding():
            self._settle(True)

    def lost(self) -> None:
        """Note that the connection is gone."""
        self._lost = True
        self._settle(False)
        if self._gone is not None:
            _resolve(self._gone, None)

    def leave(self) -> None:
        """Let requests that wait come to an end: the server stops."""
        self.leaving = True
        if self._gone is not None:
            _resolve(self._gone, None)

    def _is_lost(self) -> bool:
        return self._lost

    def _settle(self, arrived: bool) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            _resolve(turn, arrived)

    def _outstanding(self) -> int:
        """Return how many bytes this process or its kernel still holds for the client."""
        transport = self._transport
        buffered: int = transport.get_write_buffer_size()
        socket = transport.get_extra_info("socket")
        if buffered or socket is None:
            return buffered
        try:
            answer = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, _NOTHING)
        except OSError:  # not a socket that can tell; what was handed to the kernel is all that can be known
            return 0
        return int(struct.unpack("i", answer)[0])


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
