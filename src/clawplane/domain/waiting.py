"""Wait for the first of several futures."""

from __future__ import annotations

import asyncio
from typing import Any


async def first_of(*futures: asyncio.Future[Any], seconds: float | None = None) -> None:
    """Return when one of the futures is done, or the time is up; none of them is touched, nor its exception raised.

    `asyncio.wait` with a timeout does the same for twenty times the work, which counts where every request waits.
    """
    if any(future.done() for future in futures):
        return
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = None if seconds is None else loop.call_later(max(seconds, 0.0), wake)
    for future in futures:
        future.add_done_callback(wake)
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()
        for future in futures:
            future.remove_done_callback(wake)
