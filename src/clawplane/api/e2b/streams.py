"""Stream answers that never fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

T = TypeVar("T")


class Paced(Generic[T]):
    """A source of which None is heard after `every` seconds of silence; closing it closes the source.

    `begin` waits a moment for the first item, so that a request that fails at once is answered by its error alone.
    """

    def __init__(self, source: AsyncGenerator[T, None], *, every: float) -> None:
        self._source = source
        self._every = every
        self._next: asyncio.Future[T] | None = None

    async def begin(self, within: float) -> None:
        """Ask for the first item; raises the source's error when it comes in time."""
        self._next = asyncio.ensure_future(anext(self._source))
        try:
            await asyncio.wait({self._next}, timeout=within)
        except asyncio.CancelledError:
            await self._close()
            raise
        if self._next.done():
            error = self._next.exception()
            if error is not None and not isinstance(error, StopAsyncIteration):
                raise error

    async def items(self) -> AsyncGenerator[T | None, None]:
        """Yield the source's items, and None in silences."""
        try:
            while True:
                if self._next is None:
                    self._next = asyncio.ensure_future(anext(self._source))
                done, _ = await asyncio.wait({self._next}, timeout=self._every)
                if not done:
                    yield None
                    continue
                try:
                    item = self._next.result()
                except StopAsyncIteration:
                    return
                self._next = None
                yield item
        finally:
            await self._close()

    async def _close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._source.aclose()
