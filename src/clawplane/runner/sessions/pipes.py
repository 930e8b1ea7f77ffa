"""Read what a process of a session prints, at the pace of whoever takes it, and never longer than needed.

Nobody reads between two execs: what a thread or a child prints then waits in the pipe, at most a pipe full, and
belongs to the next exec. While an exec runs both pipes are read in turn; when it has ended, what is in them is read and
no more: a process that goes on printing cannot hold the answer up.

A pipe may end under either hand. Whoever closes a descriptor takes it from the event loop first: the number goes to the
next pipe or socket at once, and what the loop still knew of it would make that one deaf.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, Literal

Stream = Literal["stdout", "stderr"]
Take = Callable[[Stream, bytes], None]

_BLOCK: Final = 64 << 10
_LAST_BLOCKS: Final = 64
"""How much is read after the end: more than two pipes hold, and a bound on who prints for ever."""


class Pipes:
    """The reading ends of stdout and stderr of one process."""

    def __init__(self, stdout: int, stderr: int) -> None:
        """Own two non-blocking descriptors."""
        self._open: dict[Stream, int] = {"stdout": stdout, "stderr": stderr}
        self._watched: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()

    async def read(self, take: Take) -> None:
        """Hand over blocks as they come, until cancelled or both pipes are closed at their other end."""
        try:
            for descriptor in self._open.values():
                self._loop.add_reader(descriptor, self._ready.set)
                self._watched.add(descriptor)
            while self._open:
                await self._ready.wait()
                self._ready.clear()
                for stream in list(self._open):
                    if self._take_one(stream, take):
                        self._ready.set()
                await asyncio.sleep(0)
        finally:
            for descriptor in list(self._watched):
                self._unwatch(descriptor)

    def take_rest(self, take: Take) -> None:
        """Hand over what is in the pipes now."""
        for _ in range(_LAST_BLOCKS):
            took = [self._take_one(stream, take) for stream in list(self._open)]
            if not any(took):
                return

    def close(self) -> None:
        """Close both; who is reading has read all there is."""
        for stream in list(self._open):
            self._end(stream)

    def _take_one(self, stream: Stream, take: Take) -> bool:
        """Read one block; True when there was one."""
        try:
            block = os.read(self._open[stream], _BLOCK)
        except BlockingIOError:
            return False
        if not block:
            self._end(stream)
            return False
        take(stream, block)
        return True

    def _end(self, stream: Stream) -> None:
        descriptor = self._open.pop(stream)
        self._unwatch(descriptor)
        os.close(descriptor)
        self._ready.set()

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.remove(descriptor)
            self._loop.remove_reader(descriptor)


def make_pipes() -> tuple[Pipes, int, int]:
    """Return the reading ends, and the two writing ends to be handed to a process and closed."""
    out, theirs_out = os.pipe2(os.O_CLOEXEC)
    err, theirs_err = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(out, False)
    os.set_blocking(err, False)
    return Pipes(out, err), theirs_out, theirs_err
