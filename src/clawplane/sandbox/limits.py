"""Apply resource limits to the calling process, the last line where cgroups are missing.

RLIMIT_CORE is 1, soft and hard, not 0: where the host pipes core dumps to a program, 0 does not keep the kernel from
starting it, while 1 does, and a file of one byte is too small to be written at all. The system call filter keeps the
guest from lowering it to 0.
"""

from __future__ import annotations

import math
import resource
from typing import Final

from clawplane.sandbox.policy import MIB, Limits

_LOCKED_MEMORY: Final = 64 * 1024
_QUEUE_BYTES: Final = 800 * 1024
_ADDRESS_SPACE_ALLOWANCE: Final = 4096 * MIB
"""node and Go reserve address space they never touch; shared mappings within it are caught by the poller."""


def apply_rlimits(limits: Limits, *, cgroups: bool) -> None:
    """Set soft and hard limits of the calling process; a limit above its present hard limit becomes that one.

    With cgroups=False memory, processes and CPU time are limited here too, as well as rlimits can: memory per process,
    processes per real uid and user namespace, CPU time per process. Root is not bound by the process limit.
    """
    _limit(resource.RLIMIT_CORE, 1)
    _limit(resource.RLIMIT_NOFILE, limits.open_files)
    _limit(resource.RLIMIT_MEMLOCK, _LOCKED_MEMORY)
    _limit(resource.RLIMIT_MSGQUEUE, _QUEUE_BYTES)
    _limit(resource.RLIMIT_RTPRIO, 0)
    _limit(resource.RLIMIT_NICE, 0)
    if limits.file_size is not None:
        _limit(resource.RLIMIT_FSIZE, limits.file_size)
    if limits.cpu_time is not None:
        seconds = math.ceil(limits.cpu_time) + (1 if cgroups else 0)
        _limit(resource.RLIMIT_CPU, seconds, hard=seconds + 1)  # SIGXCPU first: it tells the verdict why
    if cgroups:
        return
    if limits.memory is not None:
        _limit(resource.RLIMIT_DATA, limits.memory)
        _limit(resource.RLIMIT_AS, limits.memory + _ADDRESS_SPACE_ALLOWANCE)
    if limits.processes is not None:
        _limit(resource.RLIMIT_NPROC, limits.processes)


def _limit(kind: int, value: int, *, hard: int | None = None) -> None:
    present = resource.getrlimit(kind)[1]
    wanted = (value, value if hard is None else hard)
    soft, final = wanted if present == resource.RLIM_INFINITY else (min(each, present) for each in wanted)
    resource.setrlimit(kind, (soft, final))
