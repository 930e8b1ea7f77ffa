"""One group in one cgroup v1 hierarchy: memory, pids, cpu, cpuacct or freezer, alone or mounted together."""

from __future__ import annotations

import contextlib
import os

from clawplane.sandbox import cgroup_files
from clawplane.sandbox.cgroup_files import Directories
from clawplane.sandbox.policy import Limits

CONTROLLERS = frozenset({"memory", "pids", "cpu", "cpuacct", "freezer"})
CPU_PERIOD = 100_000  # microseconds
CPU_QUOTA_MINIMUM = 1_000  # the kernel refuses less


def cpu_quota(cpus: float) -> int:
    """Return the microseconds of CPU time per period that `cpus` cores are."""
    return max(CPU_QUOTA_MINIMUM, round(cpus * CPU_PERIOD))


class BranchV1:
    """A group directory of one v1 hierarchy, with the controllers of interest that are mounted there."""

    def __init__(self, path: str, controllers: frozenset[str], directories: Directories) -> None:
        self.path = path
        self.controllers = controllers
        self._directories = directories

    def create(self, limits: Limits, *, oom_together: bool = True) -> None:  # v1 always kills one process
        """Make the directory and write the limits; on failure nothing is left behind."""
        self._directories.make(self.path)
        try:
            self._write_limits(limits)
        except OSError:
            self.remove()
            raise

    def _write_limits(self, limits: Limits) -> None:
        if "memory" in self.controllers and limits.memory is not None:
            cgroup_files.write(self.path, "memory.limit_in_bytes", str(limits.memory))
            # the twin bounds memory and swap together; absent where swap accounting is off
            cgroup_files.write_if_present(self.path, "memory.memsw.limit_in_bytes", str(limits.memory))
        if "pids" in self.controllers and limits.processes is not None:
            cgroup_files.write(self.path, "pids.max", str(limits.processes))
        if "cpu" in self.controllers and limits.cpus is not None:
            cgroup_files.write(self.path, "cpu.cfs_period_us", str(CPU_PERIOD))
            cgroup_files.write(self.path, "cpu.cfs_quota_us", str(cpu_quota(limits.cpus)))

    @property
    def entrances(self) -> list[str]:
        """Return the file that a thread writes "0" to in order to join; a move of processes would wait for a lock."""
        return [f"{self.path}/tasks"]

    def inner(self, name: str) -> BranchV1:
        """Make a group in this one without limits of its own: it can be killed and frozen by itself."""
        branch = BranchV1(f"{self.path}/{name}", self.controllers & {"freezer"}, self._directories)
        self._directories.make(branch.path)
        return branch

    def attach(self, pid: int) -> None:
        """Place the process; memory it already has stays charged to its old group."""
        cgroup_files.write(self.path, "cgroup.procs", str(pid))

    def populated(self) -> bool:
        """Tell whether processes are left; zombies do not count."""
        return bool(cgroup_files.members(self.path))

    def kill(self) -> None:
        """Send SIGKILL to all members, held still by the freezer where this hierarchy has one."""
        if "freezer" in self.controllers:
            self.freeze()
        cgroup_files.kill_members(self.path)
        if "freezer" in self.controllers:
            self.thaw()  # SIGKILL takes effect only then

    def freeze(self) -> None:
        """Ask the kernel to stop all members; they are stopped well within a millisecond."""
        with contextlib.suppress(FileNotFoundError):
            cgroup_files.write(self.path, "freezer.state", "FROZEN")

    def thaw(self) -> None:
        """Let all members go on."""
        with contextlib.suppress(FileNotFoundError):
            cgroup_files.write(self.path, "freezer.state", "THAWED")

    def cpu_microseconds(self) -> int:
        """Return the CPU time used so far."""
        return cgroup_files.number(self.path, "cpuacct.usage") // 1000

    def peak_memory(self) -> int:
        """Return the highest memory use in bytes."""
        return cgroup_files.number(self.path, "memory.max_usage_in_bytes")

    def current_memory(self) -> int:
        """Return the memory in use now, in bytes."""
        return cgroup_files.number(self.path, "memory.usage_in_bytes")

    def oom_kills(self) -> int:
        """Return how many members the kernel killed for memory (`memory.failcnt` stays 0 on new kernels)."""
        return cgroup_files.counter(self.path, "memory.oom_control", "oom_kill")

    def refused_forks(self) -> int:
        """Return how often the process limit refused a fork."""
        return cgroup_files.counter(self.path, "pids.events", "max")

    def remove(self) -> bool:
        """Remove the directory; False while members are still dying."""
        return remove_directory(self.path, self._directories)


def remove_directory(path: str, directories: Directories) -> bool:
    """Remove a group directory with the empty groups in it; True when it is gone, False while it is busy."""
    try:
        directories.remove(path)
    except FileNotFoundError:
        return True
    except OSError:
        inner = [each for each in cgroup_files.children(path) if remove_directory(each, directories)]
        return remove_directory(path, directories) if inner else not os.path.exists(path)
    return True
