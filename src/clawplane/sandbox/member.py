"""One process that a resident started or adopted, and the part of the tree that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from clawplane.sandbox import cgroup_files
from clawplane.sandbox.cgroups import Group

MemberReason = Literal["exit", "signal", "memory", "killed", "lost"]

_FLAGS: Final = 5
"""Where /proc/PID/stat has a process's flags, behind its name and state."""
_PF_EXITING: Final = 0x4


@dataclass(frozen=True, slots=True)
class MemberEnd:
    """How a member ended, as the kernel told pid 1.

    exit: with `exit_code`; signal: by `signal`, which somebody inside or our caller sent; memory: it was killed because
    memory was out; killed: by kill_tree; lost: the whole resident ended. cpu_ms and max_rss (bytes, of its largest
    process) cover it and the children it waited for.
    """

    reason: MemberReason
    exit_code: int | None = None
    signal: int | None = None
    cpu_ms: int = 0
    max_rss: int = 0


class Part(Protocol):
    """Everything that descends from one member."""

    def kill(self) -> None:
        """Send SIGKILL to all of it; call again while `populated`."""

    def populated(self) -> bool:
        """Tell whether anything of it is alive."""

    def remove(self) -> bool:
        """Give back what stands for it; False while something of it is alive."""


class Member:
    """A process in a resident: an interpreter, a program or an adopted copy."""

    def __init__(self, number: int, pid: int, host_pid: int, pidfd: int) -> None:
        """Own `pidfd`."""
        self.number = number
        self.pid = pid
        """Process id as the guest sees it."""
        self.host_pid = host_pid
        """Process id as this process sees it; valid only while the member lives."""
        self.part: Part | None = None
        self.being_killed = False
        self._pidfd: int | None = pidfd
        self._end: asyncio.Future[MemberEnd] = asyncio.get_running_loop().create_future()

    async def wait(self) -> MemberEnd:
        """Return how the process ended; what it left behind may live on until `Resident.kill_tree`."""
        return await asyncio.shield(self._end)

    @property
    def end(self) -> MemberEnd | None:
        """How it ended, None while it lives."""
        return self._end.result() if self._end.done() else None

    @property
    def ending(self) -> bool:
        """Tell whether it has ended, or the kernel is about to clear it away; what it held may be closed already."""
        return self._end.done() or _exits(self.host_pid)

    def send(self, number: int) -> None:
        """Signal exactly this process; nothing happens when it has ended."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def settle(self, end: MemberEnd) -> None:
        """Note the end; the first one stays."""
        if not self._end.done():
            self._end.set_result(end)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _exits(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return True
    return state in b"ZX" or bool(int(fields[_FLAGS]) & _PF_EXITING)


def close_all(descriptors: Sequence[int]) -> None:
    """Close what was opened for somebody else."""
    for descriptor in descriptors:
        os.close(descriptor)


def make_part(group: Group, name: str, left_over: Sequence[Part]) -> tuple[Part | None, list[int], list[Part]]:
    """Make what a member is gathered in; returns it, open files to join it by, and those of `left_over` still alive."""
    busy = [each for each in left_over if not each.remove()]
    branch = group.gather(name)
    if branch is None:
        return None, [], busy
    return branch, cgroup_files.opened(branch.entrances[-1:]), busy


def strike(part: Part) -> bool:
    """Kill, and tell whether nothing is left."""
    if part.populated():
        part.kill()
    return not part.populated()
