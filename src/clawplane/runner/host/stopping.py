"""Tell a task that runs to end, and how."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

CANCEL_GRACE: Final = 5.0
LEAVE_GRACE: Final = 3.0

Why = Literal["", "cancel", "leave", "drop"]


class Stop:
    """The wish that a task ends: terminate, and kill after `grace` seconds. The strongest word counts."""

    def __init__(self) -> None:
        self.why: Why = ""
        """cancel: somebody asked for it; leave: the runner goes, the end is reported; drop: nobody wants to know."""
        self.grace = CANCEL_GRACE
        self._asked = asyncio.Event()
        self._at_once = asyncio.Event()

    @property
    def asked(self) -> bool:
        """Tell whether the task is to end."""
        return self._asked.is_set()

    def cancel(self) -> None:
        """End it: somebody asked for that."""
        if not self.asked:
            self.why = "cancel"
        self._asked.set()

    def leave(self) -> None:
        """End it shortly: this runner leaves."""
        if not self.asked:
            self.why, self.grace = "leave", LEAVE_GRACE
        self._asked.set()

    def drop(self) -> None:
        """End it at once and without a word."""
        self.why, self.grace = "drop", 0.0
        self._asked.set()
        self._at_once.set()

    async def wait(self) -> None:
        """Return when the task is to end."""
        await self._asked.wait()

    async def wait_at_once(self) -> None:
        """Return when the task is to end without any grace."""
        await self._at_once.wait()
