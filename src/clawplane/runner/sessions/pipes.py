"""Read what a process of a session prints, at the pace of whoever takes it, and never longer than needed.

Nobody reads between two execs: what a thread or a child prints then waits in the pipe, at most a pipe full, and
belongs to the next exec. While an exec runs both pipes are read in turn; when it has ended, what is in them is read and
no more: a process that goes on printing cannot hold the answer up.
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
        self._reading = False

    async def read(self, take: Take) -> None:
        """Hand over blocks as they come, until cancelled or both pipes are closed at their other end."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        watched: set[int] = set()
        self._reading = True
        try:
            while self._open:
                for descriptor in set(self._open.values()) - watched:
                    loop.add_reader(descriptor, ready.set)
                    watched.add(descriptor)
                await ready.wait()
                ready.clear()
                for stream in list(self._open):
                    if self._take_one(stream, take, loop.remove_reader):
                        ready.set()
                await asyncio.sleep(0)
        finally:
            self._reading = False
            for descriptor in watched & set(self._open.values()):
                loop.remove_reader(descriptor)

    def take_rest(self, take: Take) -> None:
        """Hand over what is in the pipes now."""
        for _ in range(_LAST_BLOCKS):
            took = [self._take_one(stream, take) for stream in list(self._open)]
            if not any(took):
                return

    def close(self) -> None:
        """Close both; nobody may be reading."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _take_one(self, stream: Stream, take: Take, closing: Callable[[int], object] = lambda descriptor: None) -> bool:
        """Read one block; True when there was one."""
        try:
            block = os.read(self._open[stream], _BLOCK)
        except BlockingIOError:
            return False
        if not block:
            closing(self._open[stream])
            os.close(self._open.pop(stream))
            return False
        take(stream, block)
        return True


def make_pipes() -> tuple[Pipes, int, int]:
    """Return the reading ends, and the two writing ends to be handed to a process and closed."""
    out, theirs_out = os.pipe2(os.O_CLOEXEC)
    err, theirs_err = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(out, False)
    os.set_blocking(err, False)
    return Pipes(out, err), theirs_out, theirs_err
