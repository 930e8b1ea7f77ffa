"""Ask something while something else goes on: at most once, and never beyond the end of what it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Question(Generic[T]):
    """One question; `ask` may be called any number of times, or never."""

    def __init__(self, put: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._put = put
        self._asking: asyncio.Task[T] | None = None

    def ask(self) -> None:
        """Begin, without waiting."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._put())

    async def answer(self) -> T | None:
        """Wait for the answer; None when nobody asked."""
        return None if self._asking is None else await self._asking

    async def close(self) -> None:
        """Withdraw a question whose answer nobody waits for any more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
