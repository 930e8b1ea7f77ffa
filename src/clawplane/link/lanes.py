"""Do what arrives for one key in its order, and what arrives for different keys at the same time.

Ships and the end of one job must reach the store in order; different jobs must reach it together, because the store
commits together whatever is in flight. `submit` waits while too much is in flight: its caller then reads no further,
the socket fills, and the sender feels it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable

Work = Callable[[], Awaitable[None]]


class Lanes:
    """Lanes by key; work of one lane runs in order, one at a time."""

    def __init__(self, *, most: int, most_bytes: int, on_error: Callable[[Exception], None]) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._on_error = on_error
        self._waiting: dict[Hashable, deque[tuple[Work, int]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def in_flight(self) -> int:
        """Return how much was submitted and is not done."""
        return self._count

    async def submit(self, key: Hashable, size: int, work: Work) -> None:
        """Queue `work` behind what its lane holds; waits while `most` pieces or `most_bytes` are in flight."""
        while self._count >= self._most or (self._count and self._bytes + size > self._most_bytes):
            self._room.clear()
            await self._room.wait()
        self._count += 1
        self._bytes += size
        lane = self._waiting.get(key)
        if lane is not None:
            lane.append((work, size))
            return
        self._waiting[key] = deque([(work, size)])
        task = asyncio.create_task(self._drive(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drive(self, key: Hashable) -> None:
        lane = self._waiting[key]
        try:
            while lane:
                work, size = lane.popleft()
                try:
                    await work()
                except Exception as error:
                    self._on_error(error)
                finally:
                    self._count -= 1
                    self._bytes -= size
                    self._room.set()
        finally:
            self._waiting.pop(key, None)

    async def finish(self, *, within: float) -> None:
        """Wait until nothing is in flight; what takes longer than `within` seconds is abandoned."""
        tasks = list(self._tasks)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=within)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
