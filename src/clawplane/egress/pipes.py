"""Move bytes between two sockets: backpressure, half-close, an honest end.

Each `End` is one socket's protocol and knows the other. What arrives is written to the other end at once; when that
one's buffer is full, nothing more is read here until it has drained. A side that has said all it wants to (FIN) may
still listen; a side that breaks (RST) breaks the other one too, so that half a transfer never looks like a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final, cast

BUFFER: Final = 256 << 10
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class End(asyncio.Protocol):
    """One end of a pipe; what it receives is for `other`."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None
        self.finished = False
        """The peer has sent its last byte."""
        self.lost = False
        self._holding = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=BUFFER)

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        if self.other is not None:
            self.other.write(data)

    def write(self, data: bytes) -> None:
        """Send to this end's peer."""
        if self.transport is not None and not self.lost and data:
            self.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end on, and go on sending to this peer."""
        self.finished = True
        if self.other is not None:
            self.other.finish()
        return not self.ended

    @property
    def ended(self) -> bool:
        """Tell whether both peers have said all they wanted to."""
        return self.finished and (self.other is None or self.other.finished)

    def finish(self) -> None:
        """Tell this end's peer that nothing more will come; close when it had nothing more to say either."""
        transport = self.transport
        if transport is None or self.lost:
            return
        if self.finished:
            transport.close()
        elif transport.can_write_eof():
            transport.write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        """End the other side: what was already written to it still arrives, unless this side broke."""
        self.lost = True
        other = self.other
        if other is None or other.transport is None or other.lost:
            return
        if error is not None or not self.finished:
            other.reset()
        else:
            other.transport.close()

    def reset(self) -> None:
        """Break the connection at once."""
        transport = self.transport
        if transport is None or self.lost:
            return
        connection = transport.get_extra_info("socket")
        if connection is not None:
            with contextlib.suppress(OSError):  # it may be gone already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    def pause_writing(self) -> None:
        """Hold the other side back."""
        if self.other is not None:
            self.other.hold()

    def resume_writing(self) -> None:
        """Let the other side go on."""
        if self.other is not None:
            self.other.go_on()

    def hold(self) -> None:
        """Read no more from this end's peer for now."""
        if self.transport is not None and not self.lost and not self.finished and not self._holding:
            self._holding = True
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self.transport is not None and not self.lost and not self.finished and self._holding:
            self._holding = False
            self.transport.resume_reading()
