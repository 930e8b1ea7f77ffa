"""Take the calling process's place in cgroups and in the kernel's order of who goes first when memory is short.

Order of out-of-memory: members of a resident first, every guest's pid 1 next, the runner after them. A process may
lower its score again, but not below what somebody with the rights of host root gave it or an ancestor. Without those
rights there is no such floor, so a resident's pid 1 keeps the runner's score there, lest a member gets below it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

GUEST: Final = 500
MEMBER: Final = 1000


def join(groups: Sequence[int]) -> None:
    """Enter the cgroups whose open cgroup.procs files these are."""
    try:
        for descriptor in groups:
            os.write(descriptor, b"0")
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, "joining a cgroup") from None


def go_early(score: int) -> None:
    """Let the kernel choose this process and its descendants, not the runner, when memory is out."""
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"%d" % score)
