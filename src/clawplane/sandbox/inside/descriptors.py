"""Leave a process with exactly the descriptors it shall have, and read what came in one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from clawplane.sandbox import libc

_CLOSE_RANGE: Final = 436


def place(wanted: Sequence[int]) -> None:
    """Give the descriptors of `wanted` the numbers 0, 1, 2 and so on, and close every other."""
    lifted = []
    for descriptor in wanted:
        copy = os.dup(descriptor)
        while copy < len(wanted):  # a low number would be overwritten before its turn
            copy = os.dup(copy)
        lifted.append(copy)
    for number, descriptor in enumerate(lifted):
        os.dup2(descriptor, number)
    libc.syscall(_CLOSE_RANGE, len(wanted), 0xFFFFFFFF, 0, what="close_range")


def keep_only(*kept: int) -> tuple[int, ...]:
    """Close everything but `kept`, with nothing behind the standard streams; returns the new numbers."""
    null = os.open("/dev/null", os.O_RDWR)
    numbers = tuple(range(3, 3 + len(kept)))
    place([null, null, null, *kept])
    return numbers


def read_whole(descriptor: int) -> bytes:
    """Return the content of a memory file, and close it."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    return content
