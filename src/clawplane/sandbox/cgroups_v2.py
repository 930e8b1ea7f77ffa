"""One group in the cgroup v2 hierarchy, and what has to happen above it.

A v2 group that has processes of its own cannot hand controllers to child groups (the root is exempt). So the runner
first moves out of its own group into a leaf named `supervisor` beside its base, then switches the controllers on,
twice: for the base and for the groups in it. On a hybrid host v2 has none of our controllers and still kills, freezes
and counts.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from clawplane.sandbox import cgroup_files
from clawplane.sandbox.cgroup_files import Directories
from clawplane.sandbox.cgroups_v1 import CPU_PERIOD, cpu_quota, remove_directory
from clawplane.sandbox.policy import Limits

CONTROLLERS: Final = frozenset({"memory", "pids", "cpu"})
SUPERVISOR: Final = "supervisor"


class BranchV2:
    """A group directory of the v2 hierarchy with the controllers that could be switched on for it."""

    def __init__(self, path: str, controllers: frozenset[str], directories: Directories) -> None:
        self.path = path
        self.controllers = controllers
        self._directories = directories
        self._highest_seen = 0

    def create(self, limits: Limits, *, oom_together: bool = True) -> None:
        """Make the directory and write the limits; on failure nothing is left behind.

        oom_together=False lets the kernel kill one process that is out of memory, not all of them.
        """
        self._directories.make(self.path)
        try:
            self._write_limits(limits, oom_together)
        except OSError:
            self.remove()
            raise

    def _write_limits(self, limits: Limits, oom_together: bool) -> None:
        if "memory" in self.controllers and limits.memory is not None:
            cgroup_files.write(self.path, "memory.max", str(limits.memory))
            cgroup_files.write_if_present(self.path, "memory.swap.max", "0")
            cgroup_files.write_if_present(self.path, "memory.oom.group", "1" if oom_together else "0")
        if "pids" in self.controllers and limits.processes is not None:
            cgroup_files.write(self.path, "pids.max", str(limits.processes))
        if "cpu" in self.controllers and limits.cpus is not None:
            cgroup_files.write(self.path, "cpu.max", f"{cpu_quota(limits.cpus)} {CPU_PERIOD}")

    @property
    def entrances(self) -> list[str]:
        """Return the directory that a process can be born in, and the file it can join by."""
        return [self.path, f"{self.path}/cgroup.procs"]

    def inner(self, name: str) -> BranchV2:
        """Make a group in this one without limits of its own: it can be killed and frozen by itself.

        This group hands it no controllers, so both may have processes, and what they use counts here.
        """
        branch = BranchV2(f"{self.path}/{name}", frozenset(), self._directories)
        self._directories.make(branch.path)
        return branch

    def attach(self, pid: int) -> None:
        """Place the process; memory it already has stays charged to its old group."""
        cgroup_files.write(self.path, "cgroup.procs", str(pid))

    def populated(self) -> bool:
        """Tell whether processes are left, in child groups too."""
        return cgroup_files.counter(self.path, "cgroup.events", "populated") > 0

    def kill(self) -> None:
        """Send SIGKILL to everything below, frozen or not."""
        with contextlib.suppress(FileNotFoundError):
            if not cgroup_files.write_if_present(self.path, "cgroup.kill", "1"):  # before Linux 5.14
                self.freeze()
                cgroup_files.kill_members(self.path)
                self.thaw()

    def freeze(self) -> None:
        """Ask the kernel to stop everything below."""
        cgroup_files.write_if_present(self.path, "cgroup.freeze", "1")

    def thaw(self) -> None:
        """Let everything below go on."""
        cgroup_files.write_if_present(self.path, "cgroup.freeze", "0")

    def cpu_microseconds(self) -> int:
        """Return the CPU time used so far; the kernel counts it without the cpu controller too."""
        return cgroup_files.counter(self.path, "cpu.stat", "usage_usec")

    def peak_memory(self) -> int:
        """Return the highest memory use in bytes; before Linux 5.19 the highest that a call of this saw."""
        seen = cgroup_files.number(self.path, "memory.peak") or cgroup_files.number(self.path, "memory.current")
        self._highest_seen = max(self._highest_seen, seen)
        return self._highest_seen

    def current_memory(self) -> int:
        """Return the memory in use now, in bytes."""
        return cgroup_files.number(self.path, "memory.current")

    def oom_kills(self) -> int:
        """Return how many members were killed for memory; the kernel may count one death twice."""
        return cgroup_files.counter(self.path, "memory.events", "oom_kill")

    def refused_forks(self) -> int:
        """Return how often the process limit refused a fork."""
        return cgroup_files.counter(self.path, "pids.events", "max")

    def remove(self) -> bool:
        """Remove the directory; False while members are still dying."""
        return remove_directory(self.path, self._directories)


def home(own: str) -> str:
    """Return the group to work in: our own, or the one above when we were started inside a supervisor leaf."""
    return os.path.dirname(own) if os.path.basename(own) == SUPERVISOR else own


def enable_controllers(group: str, directories: Directories) -> frozenset[str]:
    """Hand our controllers to the children of `group`, moving processes out of the way; return those that are on."""
    offered = CONTROLLERS & _words(group, "cgroup.controllers")
    if not offered:
        return frozenset()
    if not offered <= _words(group, "cgroup.subtree_control"):
        _switch_on(group, offered)
        if not offered <= _words(group, "cgroup.subtree_control"):
            _make_room(group, directories)
            _switch_on(group, offered)
    return offered & _words(group, "cgroup.subtree_control")


def _switch_on(group: str, controllers: frozenset[str]) -> None:
    for controller in sorted(controllers):
        with contextlib.suppress(OSError):  # EBUSY while processes are here, ENOENT when the parent keeps it
            cgroup_files.write(group, "cgroup.subtree_control", f"+{controller}")


def _make_room(group: str, directories: Directories) -> None:
    """Move processes from `group` to the supervisor leaf: all where it was delegated, else only ourselves."""
    leaf = os.path.join(group, SUPERVISOR)
    with contextlib.suppress(FileExistsError):
        directories.make(leaf)
    pids = cgroup_files.members(group) if is_delegated(group) else [os.getpid()]
    for pid in pids:
        with contextlib.suppress(OSError):
            cgroup_files.write(leaf, "cgroup.procs", str(pid))


def is_delegated(group: str) -> bool:
    """Tell whether the whole subtree is ours: systemd marked it, or an ordinary user may write to it."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return os.geteuid() != 0 and os.access(os.path.join(group, "cgroup.procs"), os.W_OK)


def _words(group: str, name: str) -> frozenset[str]:
    try:
        return frozenset(cgroup_files.read(group, name).split())
    except OSError:
        return frozenset()
