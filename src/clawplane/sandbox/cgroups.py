"""Bound and end process trees with whatever cgroup controllers this host lets us write.

Theory of operation
- Detection is per controller: on a hybrid host memory, pids and cpu are v1 hierarchies while the v2 mount has none of
  them. A group is therefore one directory in each hierarchy that is of use, its branches.
- v2, where it is writable, always takes part: it kills and freezes a whole tree atomically and knows when it is
  empty, even without a single controller. Only without it cpuacct is used. A v1 freezer is used beside it, for the
  parts of a tree: a process enters its groups without waiting for a lock of the whole machine.
- Where memory or pids is missing the mode is `none`: the process tree is polled over /proc in addition, and callers
  apply rlimits (limits.apply_rlimits with cgroups=False). The polled verdict is weaker: see polled_tree.
- Attach before the guest allocates or forks: charges do not move.
- On v1 the kernel kills one process that is out of memory, not its group. Whoever sees `oom_killed` kills the group,
  except of a resident, which outlives its members (oom_together=False).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from clawplane.sandbox import cgroup_files, cgroups_v1, cgroups_v2
from clawplane.sandbox.cgroup_files import Base, Directories
from clawplane.sandbox.cgroups_v1 import BranchV1
from clawplane.sandbox.cgroups_v2 import BranchV2
from clawplane.sandbox.policy import Limits
from clawplane.sandbox.polled_tree import PolledTree

Mode = Literal["v2", "v1", "none"]
Branch = BranchV1 | BranchV2

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CONTROLLERS: Final = ("memory", "pids", "cpu", "freezer")
NOT_OFFERED: Final = "no cgroup hierarchy of this host offers it to this process"
_BOUNDING: Final = frozenset({"memory", "pids"})


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group used so far: CPU time in milliseconds, highest and present memory in bytes."""

    cpu_ms: int
    peak_memory: int
    current_memory: int = 0


class Group:
    """One process tree's bounds. All calls are a few file operations and never wait."""

    def __init__(self, branches: Sequence[Branch], tree: PolledTree | None) -> None:
        self._branches = branches
        self._tree = tree
        self._v2 = next((branch for branch in branches if isinstance(branch, BranchV2)), None)

    @property
    def polled(self) -> bool:
        """Tell whether memory and process verdicts need `oom_killed` to be called several times a second."""
        return self._tree is not None

    @property
    def entrances(self) -> list[str]:
        """Return what a process with one thread joins by: see inside/joining.py."""
        later = [entrance for each in self._branches if each is not self._v2 for entrance in each.entrances]
        return [*(self._v2.entrances if self._v2 is not None else ()), *later]

    def attach(self, pid: int) -> None:
        """Place `pid` in every hierarchy; raises OSError when it could not be, and the process must then not go on."""
        for branch in self._branches:
            branch.attach(pid)
        if self._tree is not None:
            self._tree.attach(pid)

    def kill(self) -> None:
        """Send SIGKILL to the whole tree, frozen or not; call again while `populated`."""
        if self._v2 is not None:
            self._v2.kill()
        else:
            for branch in self._branches:
                branch.kill()
        if self._tree is not None:
            self._tree.signal(signal.SIGKILL)

    def populated(self) -> bool:
        """Tell whether a process of the tree is left; zombies do not count."""
        if self._v2 is not None:
            return self._v2.populated()
        if self._tree is not None and self._tree.populated():
            return True
        return any(branch.populated() for branch in self._branches)

    def usage(self) -> Usage:
        """Measure what the tree used; keep it before `remove`."""
        memory = self._with("memory")
        clock = self._v2 or self._with("cpuacct") or self._tree
        peak = memory or self._tree
        if memory is None and self._tree is not None:
            self._tree.look()
        return Usage(
            cpu_ms=clock.cpu_microseconds() // 1000 if clock else 0,
            peak_memory=peak.peak_memory() if peak else 0,
            current_memory=peak.current_memory() if peak else 0,
        )

    def oom_kills(self) -> int:
        """Return how many processes were killed for memory, by the kernel or by `relieve`."""
        memory = self._with("memory") or self._tree
        return memory.oom_kills() if memory else 0

    def refused_forks(self) -> int:
        """Return how often the process limit refused a fork; 0 where nobody counts."""
        pids = self._with("pids")
        return pids.refused_forks() if pids else 0

    def relieve(self) -> None:
        """When polled: look, and kill the largest process, but not the first, of a tree above its memory limit."""
        if self._tree is not None:
            self._tree.relieve()

    def oom_killed(self) -> bool:
        """Tell whether memory ran out; when polled, whether more than the limit was seen: then kill."""
        memory = self._with("memory")
        if memory is not None:
            return memory.oom_kills() > 0
        return self._tree is not None and self._tree.over_memory()

    def pids_exceeded(self) -> bool:
        """Tell whether the process limit refused a fork; when polled, whether the tree was seen at its limit."""
        pids = self._with("pids")
        if pids is not None:
            return pids.refused_forks() > 0
        return self._tree is not None and self._tree.over_processes()

    @property
    def freezes(self) -> bool:
        """Tell whether there is a freezer, which stops the tree unseen by the guest."""
        return self._freezer is not None

    def freeze(self) -> None:
        """Stop the tree, where there is a freezer."""
        if self._freezer is not None:
            self._freezer.freeze()

    def thaw(self) -> None:
        """Let a frozen tree go on."""
        if self._freezer is not None:
            self._freezer.thaw()

    def remove(self) -> bool:
        """Remove the group's directories; False while processes are still dying: kill and try again later."""
        gone = [branch.remove() for branch in self._branches]  # every one, even after one that is busy
        return all(gone)

    def gather(self, name: str) -> Branch | None:
        """Make a group in this one, for a part of the tree that shall end by itself; None where no hierarchy allows it.

        It lies in one hierarchy only: what its processes use counts in this group as before. A v1 freezer comes first,
        because entering one of its groups waits for nobody (inside/joining.py).
        """
        outer = self._with("freezer") or self._v2 or next(iter(self._branches), None)
        return outer.inner(name) if outer is not None else None

    @property
    def tree(self) -> PolledTree | None:
        """The view over /proc, where the hierarchies do not give everything."""
        return self._tree

    @property
    def _freezer(self) -> Branch | None:
        return self._v2 or self._with("freezer")

    def _with(self, controller: str) -> Branch | None:
        return next((branch for branch in self._branches if controller in branch.controllers), None)


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """One mounted hierarchy we may write to: our base in it and the controllers it gives our groups."""

    version: Literal["v1", "v2"]
    base: Base
    controllers: frozenset[str]


class Cgroups:
    """This runner's place in the cgroup hierarchies of the host."""

    def __init__(self, hierarchies: Sequence[_Hierarchy], missing: Mapping[str, str], directories: Directories) -> None:
        self._hierarchies = hierarchies
        self._directories = directories
        self.missing: Mapping[str, str] = missing
        """Controller -> why it cannot be used."""

    @classmethod
    def detect(
        cls,
        *,
        mountinfo: str | None = None,
        root: Path | None = None,
        directories: Directories | None = None,
    ) -> Cgroups:
        """Find, per controller, a hierarchy we may write to; sweep what dead runners left there.

        mountinfo is the text of /proc/self/mountinfo, root a directory to look in instead of `/`. Never raises for
        what a host lacks: a controller that cannot be used is in `missing` with the reason.
        """
        top = str(root) if root is not None else "/"
        if mountinfo is None:
            mountinfo = _text(os.path.join(top, "proc/self/mountinfo"))
        finder = _Finder(top, mountinfo, directories or Directories())
        hierarchies = finder.find()
        return cls(hierarchies, finder.missing, directories or Directories())

    @property
    def controllers(self) -> frozenset[str]:
        """The controllers that work: of memory, pids, cpu and freezer."""
        return frozenset(name for name in CONTROLLERS if self.version_of(name) != "none")

    @property
    def mode(self) -> Mode:
        """Say where memory and process limits come from; `none` as soon as one of the two is missing."""
        if not self.controllers >= _BOUNDING:
            return "none"
        return self.version_of("memory")

    def version_of(self, controller: str) -> Mode:
        """Say which kind of hierarchy gives `controller`; `none` where nothing does."""
        found = [each.version for each in self._hierarchies if controller in each.controllers]
        if not found and controller == "freezer":
            found = [each.version for each in self._hierarchies if each.version == "v2"]
        return found[0] if found else "none"

    def create(self, name: str, limits: Limits, *, oom_together: bool = True) -> Group:
        """Make a group `name` (letters, digits, dot, dash, underscore) with these limits in every hierarchy.

        oom_together=False: when memory is out one process dies, not the whole tree.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"group name {name!r}: use letters, digits, '.', '-' and '_', at most 128")
        made: list[Branch] = []
        try:
            for hierarchy in self._hierarchies:
                branch = self._branch(hierarchy, name)
                branch.create(limits, oom_together=oom_together)
                made.append(branch)
        except OSError:
            for branch in made:
                branch.remove()
            raise
        polled = self.mode == "none" or self.version_of("freezer") == "none"
        return Group(made, PolledTree(limits) if polled else None)

    def close(self) -> None:
        """Give the base directories up; those that still have groups are swept by the next runner."""
        for hierarchy in self._hierarchies:
            with contextlib.suppress(OSError):
                self._directories.remove(hierarchy.base.path)
            os.close(hierarchy.base.lock)
        self._hierarchies = ()

    def _branch(self, hierarchy: _Hierarchy, name: str) -> Branch:
        kind = BranchV2 if hierarchy.version == "v2" else BranchV1
        return kind(os.path.join(hierarchy.base.path, name), hierarchy.controllers, self._directories)


@dataclass(frozen=True, slots=True)
class _Mounted:
    version: Literal["v1", "v2"]
    controllers: frozenset[str]
    root: str
    point: str


class _Finder:
    """Turn mountinfo and /proc/self/cgroup into hierarchies with a claimed base."""

    def __init__(self, top: str, mountinfo: str, directories: Directories) -> None:
        self._top = top
        self._directories = directories
        self._mounted = [found for line in mountinfo.splitlines() if (found := _mounted(line)) is not None]
        self._own = _own_groups(_text(os.path.join(top, "proc/self/cgroup")))
        self._refused: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def find(self) -> list[_Hierarchy]:
        found = [hierarchy for each in self._mounted if each.version == "v2" and (hierarchy := self._second(each))][:1]
        wanted = cgroups_v1.CONTROLLERS
        if found:
            wanted = wanted - found[0].controllers - {"cpuacct"}
        for each in self._mounted:
            useful = each.controllers & wanted
            if each.version == "v1" and useful and (hierarchy := self._first(each, useful)):
                found.append(hierarchy)
                wanted -= useful
        offered = frozenset().union(*(hierarchy.controllers for hierarchy in found))
        if any(hierarchy.version == "v2" for hierarchy in found):
            offered |= {"freezer"}
        reasons = {name: self._refused.get(name, NOT_OFFERED) for name in CONTROLLERS if name not in offered}
        self.missing.update(reasons)
        return found

    def _first(self, mounted: _Mounted, useful: frozenset[str]) -> _Hierarchy | None:
        own = next((path for names, path in self._own if names & mounted.controllers), "/")
        try:
            base = self._claim(self._path(mounted, own))
        except OSError as error:
            self._refused.update(dict.fromkeys(useful, f"cannot make a group: {error}"))
            return None
        return _Hierarchy("v1", base, useful)

    def _second(self, mounted: _Mounted) -> _Hierarchy | None:
        own = next((path for names, path in self._own if not names), "/")
        places = [cgroups_v2.home(self._path(mounted, own))]
        if os.geteuid() == 0 and self._path(mounted, "/") not in places:
            places.append(self._path(mounted, "/"))  # root without delegation: beside the other top groups
        best: _Hierarchy | None = None
        for place in places:
            if best is not None and best.controllers == cgroups_v2.CONTROLLERS:
                break
            try:
                controllers = cgroups_v2.enable_controllers(place, self._directories)
                base = self._claim(place)
            except OSError as error:
                self._refused.update(dict.fromkeys(CONTROLLERS, f"cannot make a group: {error}"))
                continue
            given = cgroups_v2.enable_controllers(base.path, self._directories) if controllers else frozenset()
            found = _Hierarchy("v2", base, given)
            if best is None or found.controllers > best.controllers:
                best, found = found, best or found
            if found is not best:
                self._give_up(found)
        return best

    def _give_up(self, hierarchy: _Hierarchy) -> None:
        with contextlib.suppress(OSError):
            self._directories.remove(hierarchy.base.path)
        os.close(hierarchy.base.lock)

    def _claim(self, parent: str) -> Base:
        cgroup_files.sweep(parent, self._directories)
        return cgroup_files.claim(parent, self._directories)

    def _path(self, mounted: _Mounted, own: str) -> str:
        """Translate a path of /proc/self/cgroup into the mount, which may show only a part of the hierarchy."""
        if mounted.root != "/":
            own = own.removeprefix(mounted.root) if f"{own}/".startswith(f"{mounted.root}/") else "/"
        return os.path.normpath(os.path.join(self._top, mounted.point.lstrip("/"), own.lstrip("/")))


def _mounted(line: str) -> _Mounted | None:
    before, _, after = line.partition(" - ")
    fields, kind = before.split(" "), after.split(" ")
    if len(fields) < 6 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
        return None
    root, point = (_unescaped(field) for field in fields[3:5])
    if kind[0] == "cgroup2":
        return _Mounted("v2", frozenset(), root, point)
    return _Mounted("v1", frozenset(kind[2].split(",")), root, point)


def _unescaped(field: str) -> str:
    """Undo the octal escapes of mountinfo (space, tab, newline, backslash)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _own_groups(text: str) -> list[tuple[frozenset[str], str]]:
    """Return (controllers, path) per line of /proc/self/cgroup; the v2 line has no controllers."""
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    return [(frozenset(filter(None, names.split(","))), path) for _, names, path in lines]


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
