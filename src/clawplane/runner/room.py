"""Bound what is held in memory: takers wait until there is room, in one tree of limits."""

from __future__ import annotations

import asyncio


class Room:
    """A number of bytes that may be held at once; a child's bytes count in its parent, too.

    One piece larger than the whole room is let in when the room is empty: it must pass, and it passes alone.
    """

    def __init__(self, limit: int, parent: Room | None = None) -> None:
        self._limit = limit
        self._parent = parent
        self._root: Room = parent._root if parent is not None else self
        self._waiting: list[asyncio.Future[None]] = []
        self.used = 0

    def fits(self, size: int) -> bool:
        """Tell whether `size` more bytes may be held now."""
        own = self.used == 0 or self.used + size <= self._limit
        return own and (self._parent is None or self._parent.fits(size))

    def take(self, size: int) -> None:
        """Hold `size` more bytes, whether they fit or not."""
        self.used += size
        if self._parent is not None:
            self._parent.take(size)

    def give(self, size: int) -> None:
        """Hold `size` bytes less and let waiters look again."""
        self.used -= size
        if self._parent is not None:
            self._parent.give(size)
        else:
            self.stir()

    def stir(self) -> None:
        """Let everybody who waits look again."""
        waiting, self._root._waiting = self._root._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self) -> None:
        """Wait until bytes were given back somewhere in the tree."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._root._waiting.append(future)
        await future
