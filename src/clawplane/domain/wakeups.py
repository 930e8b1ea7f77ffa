"""The port by which what waits learns that something changed."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Wakeup(Protocol):
    """A place to wait for something to have happened since the last wait."""

    def told(self) -> asyncio.Future[None]:
        """Return what is done once something has happened that no wait has taken, or when closed; never cancel it."""
        ...

    async def wait(self, timeout: float | None = None) -> bool:
        """Return True once notified since the last wait, False after `timeout` seconds."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Wakeups(Protocol):
    """Tell waiters that something changed, without polling. Never a substitute for reading the store."""

    def notify(self, channel: str) -> None:
        """Wake everybody who listens to `channel`; cheap, callable from the event loop only."""
        ...

    def listen(self, channel: str) -> Wakeup:
        """Start listening; a notify between two waits is not lost."""
        ...
