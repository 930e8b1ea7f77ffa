"""Read the output pipes of one process tree, for one reader at a time, or drop what nobody reads.

Nothing is read ahead: a reader that stops stops the guest's writes once the pipe is full. The drain gives way as soon
as a reader turns up; the lock keeps the two from watching the same descriptors at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, Literal

Stream = Literal["stdout", "stderr"]

_BLOCK: Final = 65_536


class Output:
    """The pipes of one tree; owns their reading ends, which must be non-blocking."""

    def __init__(self, pipes: Mapping[Stream, int], limit: int | None, too_much: Callable[[], None]) -> None:
        """Call `too_much` once more than `limit` bytes came; what is above it is dropped."""
        self._open = dict(pipes)
        self._left = limit
        self.anything_came = False
        self._too_much = too_much
        self._lock = asyncio.Lock()
        self._wake: asyncio.Future[None] | None = None
        self._no_reader = asyncio.Event()
        self._no_reader.set()
        self._abandon = False
        self._finished = False

    @property
    def has_reader(self) -> bool:
        """Tell whether somebody iterates over the blocks now."""
        return not self._no_reader.is_set()

    async def blocks(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """Yield blocks until both pipes are closed at the other end."""
        if self.has_reader:
            raise RuntimeError("the output of a process has one reader at a time")
        self._no_reader.clear()
        self._interrupt()
        try:
            while self._open:
                async with self._lock:
                    found = self._take()
                    if found is None:
                        await self._readable()
                if found is not None and found[1]:
                    yield found
                await asyncio.sleep(0)  # a guest that never stops writing must not keep the loop
        finally:
            self._no_reader.set()
            if self._abandon:
                self._close_all()

    async def drain(self) -> None:
        """Wait until both pipes are read to their end, dropping what comes while there is no reader."""
        while self._open:
            await self._no_reader.wait()
            async with self._lock:
                if self.has_reader:
                    continue
                if self._take() is None:
                    await self._readable()
            await asyncio.sleep(0)

    def finish(self) -> None:
        """Say that whoever could write is gone: what is in the pipes now is all there will be."""
        self._finished = True
        self._interrupt()

    def abandon(self) -> None:
        """Close the pipes as soon as nobody reads them any more."""
        self._abandon = True
        if not self.has_reader:
            self._interrupt()
            self._close_all()

    def _take(self) -> tuple[Stream, bytes] | None:
        """Read one block without waiting; None when there is nothing."""
        for name, descriptor in list(self._open.items()):
            try:
                block = os.read(descriptor, _BLOCK)
            except BlockingIOError:
                if not self._finished:
                    continue
                block = b""  # a descriptor that was carried out of the tree keeps the pipe open, and says nothing
            if not block:
                self._close(name)
                continue
            self.anything_came = True
            self._open[name] = self._open.pop(name)  # the other stream comes first next time
            return name, self._within_limit(block)
        return None

    def _within_limit(self, block: bytes) -> bytes:
        if self._left is None:
            return block
        kept = block[: self._left]
        self._left -= len(kept)
        if len(kept) < len(block):
            self._too_much()
        return kept

    async def _readable(self) -> None:
        if not self._open or self._finished:
            return
        loop = asyncio.get_running_loop()
        self._wake = wake = loop.create_future()
        watched = list(self._open.values())
        for descriptor in watched:
            loop.add_reader(descriptor, _settle, wake)
        try:
            await wake
        finally:
            self._wake = None
            for descriptor in set(watched) & set(self._open.values()):  # a closed one's number may be another's by now
                loop.remove_reader(descriptor)

    def _interrupt(self) -> None:
        if self._wake is not None:
            _settle(self._wake)

    def _close(self, name: Stream) -> None:
        os.close(self._open.pop(name))

    def _close_all(self) -> None:
        loop = asyncio.get_running_loop()
        for name, descriptor in list(self._open.items()):
            loop.remove_reader(descriptor)
            self._close(name)


def _settle(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
