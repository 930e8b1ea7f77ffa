"""Show another command line in /proc than the one this process was started with.

The zygote's own names a file of the host, and a guest would find it in its own /proc/self/cmdline. The kernel reads the
command line from the process's memory, between two addresses it tells in /proc/self/stat; writing there is enough.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass

_ARG_START = 45  # of the fields of /proc/self/stat that follow the name in parentheses
_ARG_END = 46


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Where the arguments of this process and its forks lie in memory; size 0 where the kernel does not tell."""

    address: int
    size: int

    @classmethod
    def find(cls) -> CommandLine:
        """Ask the kernel."""
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        return cls(start, max(0, end - start))

    def show(self, arguments: Sequence[str]) -> None:
        """Overwrite the command line with `arguments`, cut to the room there is."""
        if self.size < 2:
            return
        text = b"\0".join(os.fsencode(each) for each in arguments)[: self.size - 1]
        ctypes.memmove(self.address, text.ljust(self.size, b"\0"), self.size)
