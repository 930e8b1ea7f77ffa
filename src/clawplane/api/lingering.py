"""Close a connection whose client is still sending, without taking its answer away.

A request may be answered before its body has arrived: it is too large, or its key is wrong. When a socket is closed
with bytes unread, or is sent more of them, the kernel resets the connection, and a reset discards what the client has
not read yet, the answer first of all. Clients that write and read in turn then see a broken connection and never learn
why. So the server ends its own side only, and discards what comes until the client ends its side, which it does once it
has seen the answer, or until it has had time and bytes enough.
"""

from __future__ import annotations

import asyncio
from typing import Final

LINGER_BYTES: Final = 64 << 20
LINGER_SECONDS: Final = 10.0


class Lingering(asyncio.Protocol):
    """The last protocol of a connection: hears its client out. `behind` is the one before, which is told the end."""

    def __init__(self, transport: asyncio.Transport, behind: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._behind = behind
        self._left = LINGER_BYTES
        self._timer = loop.call_later(LINGER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Discard, up to a bound."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on."""
        self._timer.cancel()
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on that the client is slow to read its answer."""
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that it has read."""
        self._behind.resume_writing()


def linger(transport: asyncio.Transport, behind: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
    """Close behind what was written, once the client has stopped sending."""
    if transport.is_closing() or not transport.can_write_eof():
        transport.close()
        return
    transport.set_protocol(Lingering(transport, behind, loop))
    transport.write_eof()
