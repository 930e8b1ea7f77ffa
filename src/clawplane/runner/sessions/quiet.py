"""Find moments in which nobody opens a session or runs something, to get ready for the next ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_QUIET_SECONDS: Final = 0.04
"""So long nobody opened a session or ran something: whoever works step by step is thinking."""


class Quiet:
    """Knows when somebody needed the processor last."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        """`busy` tells whether somebody needs it now."""
        self._busy = busy
        self._disturbed = 0.0

    def disturb(self) -> None:
        """Note that somebody needs the processor."""
        self._disturbed = asyncio.get_running_loop().time()

    async def wait(self, patience: float) -> None:
        """Wait until nobody has needed it for a moment, at most `patience` seconds."""
        clock = asyncio.get_running_loop().time
        until = clock() + patience
        while (now := clock()) < until:
            if self._busy():
                self._disturbed = now
            left = self._disturbed + _QUIET_SECONDS - now
            if left <= 0:
                return
            await asyncio.sleep(min(left, until - now))
