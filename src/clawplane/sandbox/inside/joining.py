"""Take the calling process's place in cgroups and in the kernel's order of who goes first when memory is short.

To move a process as a whole the kernel takes a lock that every fork takes, too, and for it waits until all processors
have passed through the scheduler, 5 to 20 ms, unless somebody did so a moment ago. Nothing waits when a process is born
in a v2 group, or when a thread moves itself between v1 groups. So the descriptors of groups are, in this order: the
directory of a v2 group, its cgroup.procs for kernels that know no better, and the `tasks` of v1 groups.

Order of out-of-memory: members of a resident first, every guest's pid 1 next, the runner after them. A process may
lower its score again, but not below what somebody with the rights of host root gave it or an ancestor. Without those
rights there is no such floor, so a resident's pid 1 keeps the runner's score there, lest a member gets below it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

from clawplane.sandbox import libc

GUEST: Final = 500
MEMBER: Final = 1000


def fork(groups: Sequence[int]) -> tuple[int, Sequence[int]]:
    """Fork a process that is born in the v2 cgroup among `groups` where the kernel can do that (since Linux 5.7).

    Returns its pid, 0 in itself, and those of `groups` that it has to join. Raises OSError.
    """
    if groups and stat.S_ISDIR(os.fstat(groups[0]).st_mode):
        try:
            return libc.fork(groups[0]), groups[2:]
        except OSError:
            return libc.fork(), groups[1:]
    return libc.fork(), groups


def join(groups: Sequence[int]) -> None:
    """Enter the cgroups whose open files these are: cgroup.procs of v2, tasks of v1; we have one thread."""
    try:
        for descriptor in groups:
            os.write(descriptor, b"0")
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, "joining a cgroup") from None


def go_early(score: int) -> None:
    """Let the kernel choose this process and its descendants, not the runner, when memory is out."""
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"%d" % score)
