"""Bytes of a workspace on their way out: a file, or a ZIP of a directory, a chunk at a time."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from clawplane.runner.workspace_archive import Pack

CHUNK: Final = 64 << 10

InThread = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Call a blocking function elsewhere; errors about the path are the domain's."""


class Outgoing(ABC):
    """Iterate to get the chunks; `sent` counts their bytes, `size` is what a file holds (0: not known before).

    Close it, or use `async with`, or `aclosing`.
    """

    def __init__(self, in_thread: InThread, size: int) -> None:
        self.size, self.sent = size, 0
        self._in_thread = in_thread

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk."""
        chunk = await self._in_thread(self._next)
        if not chunk:
            raise StopAsyncIteration
        self.sent += len(chunk)
        return chunk

    @abstractmethod
    def close(self) -> None:
        """Let go of descriptors; safe to repeat."""

    @abstractmethod
    def _next(self) -> bytes: ...


class Reading(Outgoing):
    """A part of an open file. It ends where the file ended when it was opened, or sooner if it shrank."""

    def __init__(self, in_thread: InThread, descriptor: int, size: int, *, offset: int, limit: int | None) -> None:
        super().__init__(in_thread, size)
        self._descriptor, self._offset = descriptor, offset
        left = max(0, size - offset)
        self._left = left if limit is None else min(limit, left)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _next(self) -> bytes:
        chunk = os.pread(self._descriptor, min(CHUNK, self._left), self._offset) if self._left else b""
        self._offset += len(chunk)
        self._left -= len(chunk)
        return chunk


class Packing(Outgoing):
    """A ZIP while it is packed."""

    def __init__(self, in_thread: InThread, pack: Pack) -> None:
        super().__init__(in_thread, 0)
        self._pack = pack
        self._rest = b""

    def close(self) -> None:
        """Give up what is not packed yet."""
        self._pack.close()

    def _next(self) -> bytes:
        if not self._rest:
            self._rest = self._pack.next_chunk()
        chunk, self._rest = self._rest[:CHUNK], self._rest[CHUNK:]
        return chunk
