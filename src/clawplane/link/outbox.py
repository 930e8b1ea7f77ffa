"""What the control plane has yet to send to one runner: bounded, written by one task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from clawplane.domain.ids import JobId
from clawplane.domain.leases import Offer
from clawplane.link.codec import Codec
from clawplane.link.frames import Cancel, Drop, Offered, ServerFrame

# RFC 6455 close codes; 4000 and up are an application's own.
TRY_AGAIN: Final = 1013
POLICY: Final = 1008
DEFECT: Final = 1011
REPLACED: Final = 4001


class Outbox:
    """One runner's connection as the dispatch sees it (RunnerConnection): methods queue frames and never wait."""

    def __init__(self, codec: Codec, *, most: int, most_bytes: int) -> None:
        self._codec = codec
        self._most = most
        self._most_bytes = most_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self.closing: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        """Set once, with the close code and the reason; the first reason counts."""

    def offer(self, offer: Offer, offer_ms: int) -> None:
        """Send an offer."""
        self.put(Offered(offer=offer, offer_ms=offer_ms))

    def cancel(self, job: JobId, fence: int, reason: str) -> None:
        """Ask for a job to be stopped."""
        self.put(Cancel(job=job, fence=fence, reason=reason))

    def drop(self, job: JobId, fence: int, reason: str) -> None:
        """Tell the runner that a lease is not its own."""
        self.put(Drop(job=job, fence=fence, reason=reason))

    def close(self, reason: str) -> None:
        """End the link; used when the same runner has connected again."""
        self.end(REPLACED, reason)

    def end(self, code: int, reason: str) -> None:
        """Have the link closed with a code and a reason."""
        if not self.closing.done():
            self.closing.set_result((code, reason))

    def put(self, frame: ServerFrame, *, first: bool = False) -> None:
        """Queue a frame, ahead of all others when `first`; a runner that lets the queue fill up is closed."""
        data = self._codec.encode(frame)
        if len(self._frames) >= self._most or (self._frames and self._bytes + len(data) > self._most_bytes):
            self.end(POLICY, "the runner does not read what it is sent")
            return
        if first:
            self._frames.appendleft(data)
        else:
            self._frames.append(data)
        self._bytes += len(data)
        self._filled.set()

    async def write(self, send: Callable[[bytes], Awaitable[None]], *, within: float) -> None:
        """Pass what is queued to `send` for ever; one frame that takes longer than `within` seconds ends the link."""
        while True:
            while self._frames:
                data = self._frames.popleft()
                self._bytes -= len(data)
                try:
                    async with asyncio.timeout(within):
                        await send(data)
                except TimeoutError:
                    self.end(POLICY, "the runner does not read what it is sent")
                    return
            self._filled.clear()
            await self._filled.wait()
