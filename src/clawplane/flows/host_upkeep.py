"""Let go of what is old: results, waiting tasks, conversations, records. One look a minute, some of each at a time.

A look that fails is written to the log and tried again with the next one: retention never stops the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from clawplane.domain.clock import Clock
from clawplane.domain.errors import StoreError
from clawplane.domain.host_ports import HostTasks, Retention, TaskEvents
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels

_log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 60.0
_MOST_ROUNDS: Final = 100


class HostUpkeep:
    """The timer of retention; `pause` waits for the next look, and is an argument so that tests need no clock."""

    def __init__(
        self,
        tasks: HostTasks,
        events: TaskEvents,
        wakeups: Wakeups,
        clock: Clock,
        retention: Retention,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._tasks = tasks
        self._events = events
        self._wakeups = wakeups
        self._clock = clock
        self._retention = retention
        self._pause = pause
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Trim what an earlier process left, and begin."""
        self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def look(self) -> None:
        """Remove what is too old now."""
        for _ in range(_MOST_ROUNDS):
            swept = await self._tasks.sweep(self._retention, now=self._clock.now_ms())
            for task in swept.expired:
                self._wakeups.notify(channels.host_task(task))
                self._wakeups.notify(channels.log(task))
            if swept.expired:
                self._wakeups.notify(channels.READY)
            if not (swept.expired or swept.results or swept.sessions):
                break
        await self._events.trim(self._retention, now=self._clock.now_ms())

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except StoreError as error:
                _log.warning("retention of host tasks waits: %s", error.message)
            await self._pause(EVERY_SECONDS)
