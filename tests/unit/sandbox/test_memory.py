"""How a zygote's memory is laid out, each time in a process of its own, and how a fork enters its groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clawplane.sandbox.inside import joining

HUGE = """
from clawplane.sandbox.inside import memory
kept = memory.set_aside()
objects = [bytes(400) for _ in range(60_000)]
memory.make_huge()
print(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")))
"""
HOLES = """
from clawplane.sandbox.inside import memory
objects = [bytes(400) for _ in range(2_000)]
places = {id(each) >> 14 for each in objects}
del objects[::2]
filling = memory.fill_holes()
print(sum(id(each) >> 14 in places for each in [bytes(400) for _ in range(500)]))
"""


def said(program: str) -> int:
    """Run a program and return the number it prints."""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(found.stdout)


def collapses() -> bool:
    """Tell whether this kernel collapses pages on demand."""
    major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    return (major, minor) >= (6, 1) and Path("/sys/kernel/mm/transparent_hugepage").exists()


@pytest.mark.skipif(not collapses(), reason="the kernel has no huge pages on demand")
def test_what_is_imported_comes_to_lie_on_huge_pages() -> None:
    assert said(HUGE) >= 16 * 1024


def test_new_objects_lie_apart_from_the_holes_between_old_ones() -> None:
    assert said(HOLES) == 0


def test_a_fork_that_cannot_be_born_in_a_group_has_to_join_all_of_them(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    procs, tasks = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("cgroup.procs", "tasks"))
    pid, groups = joining.fork([directory, procs, tasks])
    if pid == 0:
        joining.join(groups)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert groups == [procs, tasks]
    assert [(tmp_path / name).read_bytes() for name in ("cgroup.procs", "tasks")] == [b"0", b"0"]
    for descriptor in (directory, procs, tasks):
        os.close(descriptor)
