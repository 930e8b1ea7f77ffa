"""Give memory back while the host is short of it.

What was made ahead goes first, for it holds nothing of anybody; then sessions that sleep go to disk, the one that was
used longest ago first. They come back with their variables when they are asked something, as after a long sleep. What
runs is never touched: its own limits hold, and the kernel's. One at a time, and the memory is looked at again after
each, so that no more goes than must.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from clawplane.runner.sessions.live import Live

ENOUGH: Final = 0.1
"""The share of the memory that shall be free."""
_LOOK_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Shortage:
    """Watches the memory of this host."""

    def __init__(
        self,
        lives: Callable[[], Iterable[Live]],
        sheds: Iterable[Callable[[], Awaitable[bool]]],
        free: Callable[[], float],
    ) -> None:
        """`sheds` throw something away that was made ahead, and say whether there was any; `free` is a share of 1."""
        self._lives = lives
        self._sheds = tuple(sheds)
        self._free = free

    async def run(self) -> None:
        """Look now and then."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.relieve()

    async def relieve(self) -> None:
        """Give memory back until enough of it is free, or nothing is left that could go."""
        stayed: set[Live] = set()
        while self._free() < ENOUGH:
            if any([await shed() for shed in self._sheds]):
                continue
            asleep = [live for live in self._lives() if live.sleeps and live.reason is None and live not in stayed]
            if not asleep:
                return
            oldest = min(asleep, key=lambda live: live.used)
            _log.info("The session %s goes to disk: the host is short of memory", oldest.spec.session)
            if not await oldest.retire("the host is short of memory"):
                stayed.add(oldest)
