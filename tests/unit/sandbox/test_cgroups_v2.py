"""The v2 form against an ordinary directory that fills and empties group directories the way the kernel does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clawplane.sandbox import cgroup_files
from clawplane.sandbox.cgroup_files import Directories
from clawplane.sandbox.cgroups import Cgroups, Usage
from clawplane.sandbox.policy import MIB, Limits

MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
FILES = {
    "cgroup.procs": "",
    "cgroup.kill": "",
    "cgroup.freeze": "0",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cgroup.subtree_control": "",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.oom.group": "0",
    "memory.peak": "0",
    "memory.events": "low 0\noom 0\noom_kill 0\n",
    "pids.max": "max",
    "pids.events": "max 0\n",
    "cpu.max": "max 100000",
    "cpu.stat": "usage_usec 0\n",
}


class Tree:
    """A directory that stands for a v2 mount."""

    def __init__(self, root: Path, own: str = "/service", controllers: str = "cpuset cpu io memory pids") -> None:
        self.root = root
        self.controllers = controllers
        self.top = root / "sys/fs/cgroup"
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(f"0::{own}\n")
        (root / "proc/self/mountinfo").write_text(MOUNT)
        self.top.mkdir(parents=True)
        self._fill(self.top, controllers)
        self.own = self.top / own.lstrip("/")
        for path in reversed([self.own, *self.own.parents]):
            if path.is_relative_to(self.top) and path != self.top:
                path.mkdir()
                self._fill(path, controllers)

    def _fill(self, path: Path, controllers: str) -> None:
        for name, content in FILES.items():
            (path / name).write_text(content)
        (path / "cgroup.controllers").write_text(controllers)

    def make(self, path: str) -> None:
        os.mkdir(path)
        self._fill(Path(path), self.controllers)
        if os.path.basename(path).startswith("clawplane-"):
            handed_on(Path(path))

    def detect(self, remove: Callable[[str], None] = shutil.rmtree) -> Cgroups:
        return Cgroups.detect(root=self.root, directories=Directories(self.make, remove))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A delegated group in which all controllers are already handed on, as after the kernel took our writes."""
    tree = Tree(tmp_path)
    handed_on(tree.own)
    return tree


def handed_on(group: Path) -> None:
    """An ordinary file keeps what was written last; the kernel would add."""
    (group / "cgroup.subtree_control").write_text("cpu memory pids")


def base_of(tree: Tree) -> Path:
    (base,) = tree.own.glob("clawplane-*")
    return base


@pytest.fixture
def ready(tree: Tree) -> tuple[Tree, Cgroups]:
    return tree, tree.detect()


def test_the_groups_lie_below_the_runners_own_group(ready: tuple[Tree, Cgroups]) -> None:
    tree, cgroups = ready
    assert cgroups.mode == "v2"
    assert cgroups.controllers == {"memory", "pids", "cpu", "freezer"}
    assert base_of(tree).name == f"clawplane-{os.getpid()}"


def test_limits_are_written_as_v2_spells_them(ready: tuple[Tree, Cgroups]) -> None:
    tree, cgroups = ready
    cgroups.create("job", Limits(memory=64 * MIB, cpus=0.125, processes=50))
    written = {name: (base_of(tree) / "job" / name).read_text() for name in FILES}
    assert written["memory.max"] == str(64 * MIB)
    assert written["memory.swap.max"] == "0"
    assert written["memory.oom.group"] == "1"
    assert written["pids.max"] == "50"
    assert written["cpu.max"] == "12500 100000"


def test_attaching_killing_and_freezing_are_single_writes(ready: tuple[Tree, Cgroups]) -> None:
    tree, cgroups = ready
    group = cgroups.create("job", Limits())
    group.attach(4711)
    group.freeze()
    group.kill()
    place = base_of(tree) / "job"
    assert (place / "cgroup.procs").read_text() == "4711"
    assert (place / "cgroup.freeze").read_text() == "1"
    assert (place / "cgroup.kill").read_text() == "1"
    group.thaw()
    assert (place / "cgroup.freeze").read_text() == "0"


def test_verdicts_and_usage_come_from_the_kernels_counters(ready: tuple[Tree, Cgroups]) -> None:
    tree, cgroups = ready
    group = cgroups.create("job", Limits())
    assert (group.oom_killed(), group.pids_exceeded(), group.populated()) == (False, False, False)
    place = base_of(tree) / "job"
    (place / "memory.events").write_text("low 0\noom 1\noom_kill 2\noom_group_kill 1\n")
    (place / "pids.events").write_text("max 7\n")
    (place / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (place / "cpu.stat").write_text("usage_usec 1234567\nuser_usec 1\n")
    (place / "memory.peak").write_text("67108864\n")
    assert (group.oom_killed(), group.pids_exceeded(), group.populated()) == (True, True, True)
    assert group.usage() == Usage(cpu_ms=1234, peak_memory=67_108_864)


def test_the_highest_memory_seen_is_kept_where_the_kernel_keeps_no_peak(ready: tuple[Tree, Cgroups]) -> None:
    tree, cgroups = ready
    group = cgroups.create("job", Limits())
    place = base_of(tree) / "job"
    (place / "memory.peak").unlink()
    for now in (100, 900, 300):
        (place / "memory.current").write_text(str(now))
        group.usage()
    assert group.usage().peak_memory == 900


def test_a_kernel_without_swap_accounting_still_gets_its_other_limits(ready: tuple[Tree, Cgroups]) -> None:
    tree, cgroups = ready
    make = tree.make

    def without_swap(path: str) -> None:
        make(path)
        (Path(path) / "memory.swap.max").unlink()

    Cgroups(cgroups._hierarchies, {}, Directories(without_swap)).create("job", Limits(memory=MIB))
    assert (base_of(tree) / "job" / "memory.max").read_text() == str(MIB)


def test_processes_move_to_a_leaf_before_controllers_are_handed_on(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tree.own / "cgroup.procs").write_text(str(os.getpid()))
    tree.detect()
    assert (tree.own / "supervisor" / "cgroup.procs").read_text() == str(os.getpid())
    assert (tree.own / "cgroup.subtree_control").read_text() == "+pids"  # the last of three writes


def test_a_runner_that_starts_inside_the_leaf_works_in_the_group_above(tmp_path: Path) -> None:
    tree = Tree(tmp_path, own="/service/supervisor")
    handed_on(tree.own.parent)
    tree.detect()
    assert [path.name for path in tree.own.parent.glob("clawplane-*")] == [f"clawplane-{os.getpid()}"]


def test_a_v2_mount_without_controllers_still_kills_and_counts(tmp_path: Path) -> None:
    tree = Tree(tmp_path, controllers="hugetlb")
    cgroups = tree.detect()
    assert cgroups.mode == "none"
    assert cgroups.controllers == {"freezer"}
    assert set(cgroups.missing) == {"memory", "pids", "cpu"}
    group = cgroups.create("job", Limits())
    assert group.polled
    group.kill()
    job = Path(cgroups._hierarchies[0].base.path) / "job"
    assert (job / "cgroup.kill").read_text() == "1"


def test_a_container_that_sees_a_part_of_the_hierarchy_finds_its_place(tmp_path: Path) -> None:
    tree = Tree(tmp_path, own="/inner")
    handed_on(tree.own)
    (tmp_path / "proc/self/cgroup").write_text("0::/docker/abc/inner\n")
    mountinfo = MOUNT.replace(" / /sys", " /docker/abc /sys")
    found = Cgroups.detect(mountinfo=mountinfo, root=tmp_path, directories=Directories(tree.make, shutil.rmtree))
    assert base_of(tree).parent == tree.own
    found.close()
    assert not list(tree.own.glob("clawplane-*"))


def test_escaped_characters_in_a_mount_point_are_understood(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    handed_on(tree.own)
    os.rename(tmp_path / "sys/fs/cgroup", tmp_path / "sys/fs/my cgroup")
    mountinfo = MOUNT.replace("/sys/fs/cgroup", r"/sys/fs/my\040cgroup")
    Cgroups.detect(mountinfo=mountinfo, root=tmp_path, directories=Directories(tree.make, shutil.rmtree))
    assert list((tmp_path / "sys/fs/my cgroup/service").glob("clawplane-*"))


def test_what_a_dead_runner_left_is_swept_and_a_living_one_is_not(tree: Tree) -> None:
    living = tree.detect()
    stale = tree.own / "clawplane-1"
    tree.make(str(stale))
    tree.make(str(stale / "job"))
    killed: list[str] = []

    def remove(path: str) -> None:
        killed.append((Path(path) / "cgroup.kill").read_text())
        shutil.rmtree(path)

    assert cgroup_files.sweep(str(tree.own), Directories(tree.make, remove)) == [str(stale)]
    assert killed == ["1", "1"]
    assert not stale.exists()
    assert base_of_living(living).exists()


def test_a_group_that_only_begins_like_a_runner_s_is_left_alone(tree: Tree) -> None:
    names = ("clawplane-runner.service", "clawplane-", "clawplane-1x", "clawplane-1.service")
    for name in names:
        tree.make(str(tree.own / name))
    assert cgroup_files.sweep(str(tree.own), Directories(tree.make, shutil.rmtree)) == []
    assert all((tree.own / name).exists() for name in names)


def base_of_living(cgroups: Cgroups) -> Path:
    return Path(cgroups._hierarchies[0].base.path)


def test_a_host_without_any_cgroup_mount_is_mode_none(tmp_path: Path) -> None:
    cgroups = Cgroups.detect(mountinfo="", root=tmp_path)
    assert (cgroups.mode, cgroups.controllers) == ("none", frozenset())
    assert set(cgroups.missing) == {"memory", "pids", "cpu", "freezer"}


def test_a_group_that_is_still_busy_says_so(ready: tuple[Tree, Cgroups]) -> None:
    _, cgroups = ready

    def busy(path: str) -> None:
        raise OSError(16, "Device or resource busy", path)

    group = Cgroups(cgroups._hierarchies, {}, Directories(ready[0].make, busy)).create("job", Limits())
    assert not group.remove()
