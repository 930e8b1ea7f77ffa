"""Keep what waits for a session in the order of its arrival, and say when it is time to do something unasked.

Questions that touch the interpreter are turns: one after the other. Everything else is answered beside them. A turn
whose caller has left before it began is dropped, and `dropped` told of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from clawplane.domain.errors import ClawplaneError, RateLimited
from clawplane.link.asking import Asking

MOST_WAITING: Final = 256
MOST_WAITING_BYTES: Final = 32 << 20


class Turns:
    """The queue of one session."""

    def __init__(self, dropped: Callable[[Asking], None] = lambda asking: None) -> None:
        self._dropped = dropped
        self._waiting: deque[Asking] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Asking]:
        return iter(self._waiting)

    def add(self, asking: Asking) -> None:
        """Append a question; raises RateLimited when too much waits."""
        if len(self._waiting) >= MOST_WAITING or self._bytes + len(asking.body) > MOST_WAITING_BYTES:
            raise RateLimited(
                f"{len(self._waiting)} calls wait for this session already.",
                hint="Wait for answers before you send more, or use several sessions.",
            )
        self._waiting.append(asking)
        self._bytes += len(asking.body)
        self._news.set()

    def remove(self, asking: Asking) -> None:
        """Take a question out that shall not be answered in its turn."""
        self._waiting.remove(asking)
        self._bytes -= len(asking.body)

    def wake(self) -> None:
        """Let `next` return, whatever waits."""
        self._news.set()

    async def next(self, until: float | None) -> Asking | None:
        """Return the next question; None when woken, or at `until` (seconds of the event loop's clock)."""
        if (found := self._take()) is not None:
            return found
        self._news.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._news.wait()
        except TimeoutError:
            return None
        return self._take()

    def refuse(self, error: ClawplaneError) -> None:
        """Answer everything that waits with an error."""
        while (asking := self._take()) is not None:
            asking.fail(error)

    def _take(self) -> Asking | None:
        while self._waiting:
            asking = self._waiting.popleft()
            self._bytes -= len(asking.body)
            if not asking.done:
                return asking
            self._dropped(asking)
        return None
