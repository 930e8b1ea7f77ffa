"""Wait for a while, or for less when something happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Pause = Callable[[float], Awaitable[None]]
"""Wait for so many seconds, as `asyncio.sleep` does."""


async def pause_or(pause: Pause, event: asyncio.Event, seconds: float) -> None:
    """Pause, but not longer than until `event` is set from now on."""
    event.clear()
    waits = [asyncio.ensure_future(pause(seconds)), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
