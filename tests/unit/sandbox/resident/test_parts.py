"""Parts of a tree: groups inside a group where cgroups are, a view over /proc where they are not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawplane.sandbox import cgroup_files
from clawplane.sandbox.cgroup_files import Directories
from clawplane.sandbox.cgroups import Cgroups
from clawplane.sandbox.cgroups_v1 import BranchV1
from clawplane.sandbox.cgroups_v2 import BranchV2
from clawplane.sandbox.member import Part
from clawplane.sandbox.policy import MIB, Limits
from clawplane.sandbox.polled_tree import PolledTree

# a first process that answers on its output with the pids of two members; the second has left an orphan behind
FAMILY = """
import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans come to us, as they come to pid 1
first = subprocess.Popen(["sleep", "600"])
time.sleep(0.03)  # start times are counted in hundredths of a second
second = subprocess.Popen(["sh", "-c", "setsid sh -c 'setsid sleep 600 & setsid sleep 600 &'; exec sleep 600"])
print(first.pid, second.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def family() -> Iterator[tuple[PolledTree, int, int]]:
    """A tree of a first process with two members; the second has detached two daemons."""
    with subprocess.Popen(["python3", "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first, second = (int(word) for word in process.stdout.readline().split())
        tree = PolledTree(Limits(memory=MIB))
        tree.attach(process.pid)
        _until(lambda: len(tree.members()) == 5)
        yield tree, first, second
        tree.signal(signal.SIGKILL)


def test_a_polled_part_is_a_member_with_the_orphans_that_are_not_older(family: tuple[PolledTree, int, int]) -> None:
    tree, first, second = family
    part = tree.part(second, 0, {first, second})
    assert part.populated()
    _end(part)
    assert [member.pid for member in tree.members()[1:]] == [first]
    assert part.remove()


def test_a_polled_part_never_takes_another_member(family: tuple[PolledTree, int, int]) -> None:
    tree, first, second = family
    part = tree.part(first, 0, {first, second})
    _end(part)
    assert [member.pid for member in tree.members()[1:]] == [second]


def test_a_part_whose_process_had_ended_before_it_was_seen_is_what_that_left(
    family: tuple[PolledTree, int, int],
) -> None:
    tree, first, second = family
    born = next(member.started for member in tree.members() if member.pid == second)
    os.kill(second, signal.SIGKILL)
    _until(lambda: second not in [member.pid for member in tree.members()])
    part = tree.part(second, born, {first, second})
    assert part.populated()
    _end(part)
    assert [member.pid for member in tree.members()[1:]] == [first]


def test_relief_kills_the_largest_but_never_the_first(family: tuple[PolledTree, int, int]) -> None:
    tree, _first, _second = family
    for left in (3, 2, 1, 0):
        tree.relieve()
        _until(lambda left=left: len(tree.members()) == 1 + left)  # type: ignore[misc]
    tree.relieve()
    assert tree.oom_kills() == 4
    assert len(tree.members()) == 1


def test_a_tree_within_its_memory_needs_no_relief(family: tuple[PolledTree, int, int]) -> None:
    roomy = PolledTree(Limits(memory=1024 * MIB))
    roomy.attach(family[0].members()[0].pid)
    roomy.relieve()
    assert roomy.oom_kills() == 0
    assert 0 < roomy.current_memory() <= roomy.peak_memory()


@pytest.mark.parametrize("kind", [BranchV1, BranchV2])
def test_a_group_that_is_removed_takes_the_empty_ones_in_it_along(
    tmp_path: Path, kind: type[BranchV1 | BranchV2]
) -> None:
    outer = kind(str(tmp_path / "outer"), frozenset(), Directories())
    outer.create(Limits())
    inner = outer.inner("member-1")
    assert os.path.dirname(inner.path) == outer.path
    assert outer.remove()
    assert not os.path.exists(outer.path)


def test_a_resident_of_v2_lets_the_kernel_kill_one_process_and_a_guest_all(tmp_path: Path) -> None:
    def make(path: str) -> None:
        os.mkdir(path)
        for name in ("memory.max", "memory.swap.max", "memory.oom.group"):
            Path(path, name).touch()

    for name, together, written in (("a", True, "1"), ("b", False, "0")):
        branch = BranchV2(str(tmp_path / name), frozenset({"memory"}), Directories(make=make))
        branch.create(Limits(), oom_together=together)
        assert Path(branch.path, "memory.oom.group").read_text() == written


def test_a_group_in_a_group_is_killed_alone() -> None:
    cgroups = Cgroups.detect()
    try:
        group = cgroups.create("outer", Limits())
        part = group.gather("inner")
        if part is None:
            pytest.skip("no cgroup hierarchy here is ours to write")
        with _sleeper() as outside, _sleeper() as inside:
            group.attach(outside.pid)
            part.attach(inside.pid)
            _end(part)
            assert inside.wait(30) == -signal.SIGKILL
            assert outside.poll() is None
            assert part.remove()
            outside.kill()
            outside.wait(30)
        _until(group.remove)
    finally:
        cgroups.close()


def test_groups_in_groups_of_a_dead_runner_are_swept() -> None:
    cgroups = Cgroups.detect()
    group = cgroups.create("outer", Limits())
    part = group.gather("inner")
    if part is None:
        cgroups.close()
        pytest.skip("no cgroup hierarchy here is ours to write")
    with _sleeper() as inside:
        part.attach(inside.pid)
        base = os.path.dirname(os.path.dirname(part.path))
        for hierarchy in cgroups._hierarchies:  # as the kernel does for a dead runner
            os.close(hierarchy.base.lock)
        _until(lambda: not cgroup_files.sweep(os.path.dirname(base), Directories()) and not os.path.exists(base))
        assert inside.wait(30) == -signal.SIGKILL
    Cgroups.detect().close()  # sweeps the other hierarchies


@contextlib.contextmanager
def _sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def _end(part: Part) -> None:
    def struck() -> bool:
        part.kill()
        return not part.populated()

    _until(struck)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
