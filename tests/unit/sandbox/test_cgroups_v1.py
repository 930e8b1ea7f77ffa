from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox import cgroup_files
from clawplane.sandbox.cgroup_files import Directories
from clawplane.sandbox.cgroups import Cgroups, Group
from clawplane.sandbox.cgroups_v1 import BranchV1, cpu_quota
from clawplane.sandbox.policy import MIB, Limits

PATIENCE = 30.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        os.sched_yield()


def v1_works() -> bool:
    cgroups = Cgroups.detect()
    try:
        return cgroups.mode == "v1"
    finally:
        cgroups.close()


pytestmark = pytest.mark.skipif(not v1_works(), reason="this host or user has no writable v1 hierarchies")


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    found = Cgroups.detect()
    yield found
    found.close()


@pytest.fixture
def group(cgroups: Cgroups) -> Iterator[Callable[[Limits], Group]]:
    """Return a maker of groups that are emptied and removed afterwards."""
    made: list[Group] = []

    def make(limits: Limits) -> Group:
        made.append(cgroups.create(f"test-{len(made)}", limits))
        return made[-1]

    yield make
    for each in made:
        each.kill()
        until(lambda each=each: not each.populated())  # type: ignore[misc]
        until(each.remove)


def attached(group: Group, code: str) -> subprocess.Popen[bytes]:
    """Start Python code that begins only after its process was attached."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.stdin.readline()\n{code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    group.attach(process.pid)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    return process


def test_a_memory_hog_is_killed_and_the_group_says_so(group: Any) -> None:
    bounded = group(Limits(memory=32 * MIB))
    assert not bounded.oom_killed()
    with attached(bounded, "x = bytearray(100_000_000)") as hog:
        assert hog.wait(PATIENCE) == -signal.SIGKILL
    assert bounded.oom_killed()
    assert bounded.usage().peak_memory == 32 * MIB


def test_a_fork_bomb_stops_at_the_limit_and_the_group_says_so(group: Any) -> None:
    bounded = group(Limits(processes=10))
    code = """
import os
made = 0
try:
    while True:
        if not os.fork(): import time; time.sleep(100)
        made += 1
except OSError:
    print(made, flush=True)
"""
    with attached(bounded, code) as bomb:
        assert bomb.stdout is not None
        assert bomb.stdout.readline() == b"9\n"
        assert bounded.pids_exceeded()
        bounded.kill()
        until(lambda: not bounded.populated())


def test_an_eighth_of_a_core_takes_eight_times_as_long(group: Any) -> None:
    bounded = group(Limits(cpus=0.125))
    started = time.monotonic()
    with attached(bounded, "import time\nwhile time.process_time() < 0.1: pass") as spinner:
        assert spinner.wait(PATIENCE) == 0
    assert time.monotonic() - started > 0.4
    assert 80 <= bounded.usage().cpu_ms < 400


def test_a_group_that_was_left_in_peace_reports_no_crossing(group: Any) -> None:
    bounded = group(Limits())
    with attached(bounded, "pass") as quiet:
        assert quiet.wait(PATIENCE) == 0
    assert not bounded.oom_killed()
    assert not bounded.pids_exceeded()


def test_killing_reaches_a_daemon_that_left_session_and_parent(group: Any) -> None:
    bounded = group(Limits())
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True); time.sleep(100)
    os._exit(0)
"""
    with attached(bounded, code) as starter:
        assert starter.stdout is not None
        daemon = int(starter.stdout.readline())
        assert starter.wait(PATIENCE) == 0
        assert bounded.populated()
        bounded.kill()
        until(lambda: not bounded.populated())
    until(lambda: not Path(f"/proc/{daemon}/exe").is_symlink() or _is_zombie(daemon))


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


def test_a_frozen_tree_makes_no_progress_until_thawed_and_can_be_killed(group: Any) -> None:
    bounded = group(Limits())
    with attached(bounded, "while True: pass") as spinner:
        bounded.freeze()
        before = _settled_cpu(spinner.pid)
        assert _cpu_ticks(spinner.pid) == before
        bounded.thaw()
        until(lambda: _cpu_ticks(spinner.pid) > before)
        bounded.freeze()
        bounded.kill()
        assert spinner.wait(PATIENCE) == -signal.SIGKILL


def _cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def _settled_cpu(pid: int) -> int:
    """Return the CPU ticks of a process once they have stayed the same for five ticks of our own CPU time."""
    same_since, ticks = time.process_time(), _cpu_ticks(pid)
    while time.process_time() - same_since < 0.05:
        now = _cpu_ticks(pid)
        if now != ticks:
            same_since, ticks = time.process_time(), now
    return ticks


def test_a_group_with_processes_is_busy_and_an_empty_one_goes(cgroups: Cgroups) -> None:
    bounded = cgroups.create("busy", Limits())
    with attached(bounded, "import time; time.sleep(100)") as sleeper:
        assert not bounded.remove()
        bounded.kill()
        sleeper.wait(PATIENCE)
    until(bounded.remove)
    assert bounded.remove()  # twice is fine


def test_a_name_is_taken_once_and_a_path_is_no_name(cgroups: Cgroups) -> None:
    first = cgroups.create("one", Limits())
    with pytest.raises(FileExistsError):
        cgroups.create("one", Limits())
    assert first.remove()
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="group name"):
            cgroups.create(name, Limits())


def test_a_limit_the_kernel_refuses_leaves_no_directory_behind(cgroups: Cgroups) -> None:
    with pytest.raises(OSError):
        cgroups.create("refused", Limits(processes=-5))
    cgroups.create("refused", Limits()).remove()


def test_what_a_dead_runner_left_is_ended_and_removed(cgroups: Cgroups) -> None:
    """The lock of the base goes with its owner; here the owner closes it and forgets the rest."""
    dead = Cgroups.detect()
    group = dead.create("orphaned", Limits())
    with attached(group, "import time; time.sleep(100)") as orphan:
        for hierarchy in dead._hierarchies:
            os.close(hierarchy.base.lock)
        Cgroups.detect().close()
        assert orphan.wait(PATIENCE) == -signal.SIGKILL
    until(lambda: not group.populated())
    Cgroups.detect().close()
    assert not any(Path(hierarchy.base.path).exists() for hierarchy in dead._hierarchies)


def test_the_base_of_a_living_runner_is_left_alone(cgroups: Cgroups) -> None:
    group = cgroups.create("living", Limits())
    with attached(group, "import time; time.sleep(100)") as sleeper:
        Cgroups.detect().close()
        assert sleeper.poll() is None
        group.kill()
    until(group.remove)


def test_an_ordinary_user_gets_no_controllers_and_is_told_why(as_nobody: Any) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")

    def look() -> list[Any]:
        cgroups = Cgroups.detect()
        return [
            cgroups.mode,
            sorted(cgroups.controllers),
            sorted(cgroups.missing),
            "denied" in cgroups.missing["memory"],
        ]

    assert as_nobody(look).value == ["none", [], ["cpu", "freezer", "memory", "pids"], True]


def test_every_controller_of_this_host_is_found(cgroups: Cgroups) -> None:
    assert cgroups.controllers == {"memory", "pids", "cpu", "freezer"}
    assert cgroups.version_of("memory") == "v1"


@pytest.mark.parametrize(("cpus", "quota"), [(0.125, 12_500), (2.0, 200_000), (0.001, 1_000)])
def test_cores_become_microseconds_the_kernel_accepts(cpus: float, quota: int) -> None:
    assert cpu_quota(cpus) == quota


def test_the_v1_freezer_kills_a_tree_by_itself() -> None:
    """Hosts with v1 only have no cgroup.kill."""
    point = _v1_mount("freezer")
    if point is None:
        pytest.skip("no freezer hierarchy")
    branch = BranchV1(f"{point}/clawplane-test-{os.getpid()}", frozenset({"freezer"}), Directories())
    branch.create(Limits())
    with subprocess.Popen(["sh", "-c", "sleep 100 & sleep 100 & wait"]) as shell:
        branch.attach(shell.pid)
        branch.freeze()
        branch.kill()
        assert shell.wait(PATIENCE) == -signal.SIGKILL
    branch.kill()
    until(lambda: not branch.populated())
    until(branch.remove)


def _v1_mount(controller: str) -> str | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup" and controller in after.split()[2].split(","):
            return before.split()[4]
    return None


def test_counters_of_missing_files_are_zero(tmp_path: Path) -> None:
    assert cgroup_files.counter(str(tmp_path), "memory.events", "oom_kill") == 0
    assert cgroup_files.number(str(tmp_path), "memory.peak") == 0
