"""Let a thread write to disk, and never leave one behind that still does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DiskTurns:
    """Calls under way; who is cancelled while waiting for one leaves it to `close`, which waits for all."""

    def __init__(self) -> None:
        self._going: set[asyncio.Future[object]] = set()

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on a thread and return what it returns."""
        going = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
        self._going.add(going)  # type: ignore[arg-type]  # futures are invariant, and this one's result is not read
        going.add_done_callback(self._done)
        return await asyncio.shield(going)

    async def close(self) -> None:
        """Wait for what was begun: only then may files and directories be closed."""
        await asyncio.gather(*self._going, return_exceptions=True)

    def _done(self, going: asyncio.Future[T]) -> None:
        self._going.discard(going)
        if not going.cancelled():
            going.exception()  # whoever was cancelled does not ask for it
