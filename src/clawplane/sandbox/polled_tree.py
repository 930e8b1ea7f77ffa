"""Bound a process tree by looking at it, for hosts without writable cgroups.

Theory of operation
- The tree is the attached process and its descendants. Inside a pid namespace orphans go to its pid 1, so they stay
  in the tree.
- A look sums the memory of the tree: the proportional share of each process where the kernel tells it (it divides
  shared pages by the number of users, so a warm fork is not charged its parent's imports), else its anonymous and
  shared memory.
- What grows and ends between two looks is not seen, and a look is slower than a hog: rlimits per process are the
  first line here, the verdict by looking is the second. Callers look several times a second; `over_memory` looks by
  itself.
- The attached process must not be reaped before the last call here, else its pid could belong to somebody else.
- A part of the tree is a process with what descends from it. Orphans hang below the first process and nothing says who
  made them, so a part is given every orphan that is not older than it: ending it may end too much, never too little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from clawplane.sandbox.policy import Limits


@dataclass(frozen=True, slots=True)
class _Member:
    pid: int
    parent: int
    started: int
    cpu_ticks: int


class PolledTree:
    """The processes below one attached pid, measured over /proc."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._root: _Member | None = None
        self._cpu_ticks = 0
        self._peak_memory = 0
        self._current_memory = 0
        self._relieved = 0
        self._over_memory = False
        self._over_processes = False

    def attach(self, pid: int) -> None:
        """Take `pid` as the top of the tree."""
        self._root = _member(pid)

    def look(self) -> None:
        """Measure the tree once and keep the highest values and the verdicts."""
        found = self._members()
        memory = sum(_memory_of(member.pid) for member in found)
        self._cpu_ticks = max(self._cpu_ticks, sum(member.cpu_ticks for member in found))
        self._current_memory = memory
        self._peak_memory = max(self._peak_memory, memory)
        if self._limits.memory is not None and memory > self._limits.memory:
            self._over_memory = True
        if self._limits.processes is not None and len(found) >= self._limits.processes:
            self._over_processes = True

    def over_memory(self) -> bool:
        """Look, then tell whether the tree was ever seen above its memory limit."""
        self.look()
        return self._over_memory

    def over_processes(self) -> bool:
        """Look, then tell whether the tree was ever seen at its process limit."""
        self.look()
        return self._over_processes

    def relieve(self) -> None:
        """Look, and kill the largest process but the first when the tree is above its memory limit."""
        self.look()
        if self._limits.memory is None or self._current_memory <= self._limits.memory:
            return
        largest = max(self._members()[1:], key=lambda member: _memory_of(member.pid), default=None)
        if largest is not None:
            self._relieved += 1  # before it ends, which another thread hears of and asks why
            _send(largest, signal.SIGKILL)

    def oom_kills(self) -> int:
        """Return how many processes `relieve` has killed."""
        return self._relieved

    def populated(self) -> bool:
        """Tell whether a process of the tree is alive; zombies do not count."""
        return bool(self._members())

    def part(self, pid: int, since: int, others: Collection[int]) -> PolledPart:
        """Return the part below `pid`, a process of the tree that was started at `since` (see `ticks`) or later.

        `others` are pids of parts that never belong to it.
        """
        return PolledPart(self, pid, since, others)

    def members(self) -> list[_Member]:
        """Return the living processes of the tree, the first one first and parents before children."""
        return self._members()

    def signal(self, number: int) -> None:
        """Send a signal to every process of the tree as it is found; forks that are under way may be missed."""
        for member in self._members():
            _send(member, number)

    def cpu_microseconds(self) -> int:
        """Return the highest CPU time seen."""
        self.look()
        return self._cpu_ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")

    def peak_memory(self) -> int:
        """Return the highest memory seen, in bytes."""
        return self._peak_memory

    def current_memory(self) -> int:
        """Return the memory seen at the last look, in bytes."""
        return self._current_memory

    def _members(self) -> list[_Member]:
        if self._root is None:
            return []
        now = _member(self._root.pid)
        if now is None or now.started != self._root.started:
            return []
        found, waiting = [], [now]
        while waiting:
            member = waiting.pop()
            found.append(member)
            waiting.extend(child for pid in _children(member.pid) if (child := _member(pid)) is not None)
        return found


class PolledPart:
    """One process of a polled tree and what may descend from it."""

    def __init__(self, tree: PolledTree, pid: int, since: int, others: Collection[int]) -> None:
        """`others` is read anew by every call."""
        self._tree = tree
        self._others = others
        self._top = _member(pid)
        self._since = self._top.started if self._top is not None else since  # it may have ended, but not what it left

    def kill(self) -> None:
        """Stop the whole part, so that nothing new comes out of it, and send SIGKILL; call again while `populated`."""
        for member in _stop(self._members):
            _send(member, signal.SIGKILL)

    def populated(self) -> bool:
        """Tell whether a process of the part is alive; zombies do not count."""
        return bool(self._members())

    def remove(self) -> bool:
        """Tell whether nothing is left; there is nothing to remove."""
        return not self.populated()

    def _members(self) -> list[_Member]:
        present = self._tree.members()
        if not present:
            return []
        first = present[0]
        inside: set[int] = set()
        found = []
        for member in present[1:]:
            top = self._top
            own = top is not None and (member.pid, member.started) == (top.pid, top.started)
            orphan = member.parent == first.pid and member.started >= self._since
            if own or member.parent in inside or (orphan and member.pid not in self._others):
                inside.add(member.pid)
                found.append(member)
        return found


def ticks() -> int:
    """Return the time in which /proc tells when a process was started."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _member(pid: int) -> _Member | None:
    """Return what /proc says of a process; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    ticks = sum(int(field) for field in fields[11:15])
    return _Member(pid, parent=int(fields[1]), started=int(fields[19]), cpu_ticks=ticks)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found.extend(int(word) for word in file.read().split())
    return found


def _memory_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        share = _kilobytes(f"/proc/{pid}/smaps_rollup", ("Pss:",))
        if share:
            return share
    with contextlib.suppress(OSError):
        return _kilobytes(f"/proc/{pid}/status", ("RssAnon:", "RssShmem:"))
    return 0


def _kilobytes(path: str, keys: tuple[str, ...]) -> int:
    total = 0
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if words and words[0] in keys:
                total += int(words[1]) * 1024
    return total


def _stop(members: Callable[[], Sequence[_Member]]) -> list[_Member]:
    """Stop processes, look again until there is none that was not stopped yet, and return them all.

    A chain of forks is a step ahead of one pass over the tree; what is stopped makes nothing any more.
    """
    seen: dict[tuple[int, int], _Member] = {}
    while fresh := [member for member in members() if (member.pid, member.started) not in seen]:
        for member in fresh:
            _send(member, signal.SIGSTOP)
            seen[member.pid, member.started] = member
    return list(seen.values())


def _send(member: _Member, number: int) -> None:
    """Signal exactly this process: the descriptor pins it, the start time proves that the pid was not reused before."""
    try:
        descriptor = os.pidfd_open(member.pid)
    except OSError:
        return
    try:
        now = _member(member.pid)
        if now is not None and now.started == member.started:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)
