from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clawplane.sandbox.cgroups import Cgroups
from clawplane.sandbox.policy import MIB, Limits
from clawplane.sandbox.polled_tree import PolledTree

PATIENCE = 30.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        os.sched_yield()


def started(code: str) -> subprocess.Popen[bytes]:
    """Start Python code and return when it has printed its first line."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_memory_of_the_whole_tree_is_summed_and_judged() -> None:
    code = """
import os, time
x = bytearray(30_000_000)
if os.fork() == 0: y = bytearray(30_000_000)
print(flush=True); time.sleep(100)
"""
    tree = PolledTree(Limits(memory=50 * MIB))
    with started(code) as hog:
        tree.attach(hog.pid)
        until(tree.over_memory)
        assert tree.peak_memory() > 50 * MIB
        tree.signal(signal.SIGKILL)
        until(lambda: not tree.populated())


def test_a_tree_within_its_limits_is_left_in_peace() -> None:
    tree = PolledTree(Limits(memory=500 * MIB, processes=5))
    with started("print(flush=True); import time; time.sleep(100)") as quiet:
        tree.attach(quiet.pid)
        assert not tree.over_memory()
        assert not tree.over_processes()
        quiet.kill()


def test_reaching_the_process_limit_is_seen_and_killing_reaches_every_session() -> None:
    code = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        os.setsid(); time.sleep(100)
print(flush=True); time.sleep(100)
"""
    tree = PolledTree(Limits(processes=5))
    with started(code) as bomb:
        tree.attach(bomb.pid)
        assert tree.over_processes()
        tree.signal(signal.SIGKILL)
        until(lambda: not tree.populated())
        assert bomb.wait(PATIENCE) == -signal.SIGKILL


def test_cpu_time_is_measured() -> None:
    tree = PolledTree(Limits())
    with started("import time\nwhile time.process_time() < 0.1: pass\nprint(flush=True); time.sleep(100)") as spinner:
        tree.attach(spinner.pid)
        assert tree.cpu_microseconds() >= 90_000
        spinner.kill()


def test_a_pid_that_was_given_to_somebody_else_is_not_touched() -> None:
    tree = PolledTree(Limits())
    with started("print(flush=True); import time; time.sleep(100)") as process:
        tree.attach(process.pid)
        assert tree._root is not None
        object.__setattr__(tree._root, "started", tree._root.started - 1)
        tree.signal(signal.SIGKILL)
        assert not tree.populated()
        assert process.poll() is None
        process.kill()


def test_a_host_without_cgroups_polls_its_groups(tmp_path: Path) -> None:
    cgroups = Cgroups.detect(mountinfo="", root=tmp_path)
    group = cgroups.create("job", Limits(memory=20 * MIB))
    with started("x = bytearray(40_000_000)\nprint(flush=True); import time; time.sleep(100)") as hog:
        group.attach(hog.pid)
        assert group.polled
        assert group.oom_killed()
        assert group.usage().peak_memory > 20 * MIB
        assert not group.freezes
        group.kill()
        assert hog.wait(PATIENCE) == -signal.SIGKILL
    assert not group.populated()
    assert group.remove()
