"""Class F of the attack list, as far as it concerns a Worker run (items 46 to 49, 52 to 54)."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

STUBBORN = """
import threading
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
"""
REFUSALS = {
    "ignoring signals": STUBBORN + "while True: time.sleep(1)",
    "blocking signals": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    "handling signals": """
def busy(*_):
    while True: pass
for number in (1, 2, 3, 14, 15): signal.signal(number, busy)
while True: signal.pause()""",
    "swallowing exceptions": """
signal.signal(signal.SIGTERM, signal.default_int_handler)
while True:
    try: time.sleep(1)
    except BaseException: pass""",
    "a stopped child": "child = os.fork()\nif child == 0: os.kill(os.getpid(), 19)\n" + STUBBORN + "signal.pause()",
}
PROMPT_MS = 350


def within(verdict: dict[str, Any], low: int, high: int) -> bool:
    return bool(low <= verdict["wall_ms"] <= high + PROMPT_MS)


@pytest.mark.parametrize("how", REFUSALS)
@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_refuses_to_end(start: str, how: str, arena: Any) -> None:  # 46
    guest = getattr(arena, start)(REFUSALS[how], limits={"wall": 0.3, "grace": 0.3})
    verdict = guest.end()
    assert verdict["reason"] == "timeout"
    assert within(verdict, 300, 600), verdict


def test_the_guest_refuses_to_be_aborted(arena: Any) -> None:  # 46
    guest = arena.python(STUBBORN + "print('DEAF', flush=True)\nwhile True: time.sleep(1)", limits={"grace": 0.2})
    guest.wait_for(b"DEAF")
    verdict = guest.stop()
    assert (verdict["reason"], verdict["signal"]) == ("aborted", signal.SIGKILL)


def test_a_guest_that_is_asked_to_end_may_tidy_up(arena: Any) -> None:  # 46, the other side
    code = "signal.signal(15, lambda *_: (os.write(1, b'TIDY\\n'), sys.exit(0)))\n"
    code += "print('UP', flush=True)\nsignal.pause()"
    guest = arena.python(code, limits={"grace": 5.0})
    guest.wait_for(b"UP")
    verdict = guest.stop()
    assert verdict["reason"] == "aborted"
    assert guest.out.endswith(b"TIDY\n")


WAITS = {
    "a pipe nobody writes": "os.mkfifo('/tmp/fifo'); open('/tmp/fifo')",
    "a lock somebody holds": """
import fcntl
first = open('/tmp/lock', 'w'); fcntl.flock(first, fcntl.LOCK_EX)
fcntl.flock(open('/tmp/lock'), fcntl.LOCK_EX)""",
    "a vfork child that never runs": "_libc.syscall(58) if os.uname().machine == 'x86_64' else 0\nsignal.pause()",
    "a long flush": """
with open('/tmp/big', 'wb') as file:
    file.write(bytes(32 << 20))
    while True: os.fsync(file.fileno())""",
}


@pytest.mark.parametrize("wait", WAITS)
def test_the_guest_waits_where_it_can_hardly_be_interrupted(wait: str, arena: Any) -> None:  # 47
    guest = arena.python(STUBBORN + WAITS[wait], limits={"wall": 0.3, "grace": 0.2})
    verdict = guest.end()
    assert verdict["reason"] == "timeout"
    assert within(verdict, 300, 500), verdict


DAEMON = """
def daemon():
    if os.fork(): return
    os.setsid()
    if os.fork(): os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _libc.prctl(1, 0, 0, 0, 0)
    open('/tmp/alive', 'w').close()
    while True: time.sleep(1)
daemon()
while not os.path.exists('/tmp/alive'): time.sleep(0.001)
print('STARTED', flush=True)
"""


@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_leaves_a_daemon_that_holds_its_output_open(start: str, arena: Any) -> None:  # 48
    """The run ends with its main process; nothing it started survives it."""
    begun = time.monotonic()
    guest = getattr(arena, start)(DAEMON, limits={"wall": 20.0})
    verdict = guest.end()
    assert (verdict["reason"], verdict["exit_code"]) == ("exit", 0)
    assert guest.out == b"STARTED\n"
    assert time.monotonic() - begun < 10


def test_a_daemon_of_the_guest_ends_with_an_abort(arena: Any) -> None:  # 48
    guest = arena.python(DAEMON + "signal.pause()", limits={"grace": 0.2})
    guest.wait_for(b"STARTED")
    assert guest.stop()["reason"] == "aborted"


def test_the_guest_floods_pid_1_with_orphans(arena: Any) -> None:  # 49
    """Orphans are reaped: a thousand of them fit into a limit of a hundred processes."""
    code = """
for _ in range(1000):
    child = os.fork()
    if child == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
end = time.monotonic() + 5
def is_zombie(pid):
    try: return open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0] == 'Z'
    except OSError: return False
def zombies(): return sum(is_zombie(each) for each in os.listdir('/proc') if each.isdigit())
while zombies() and time.monotonic() < end: pass
say(zombies())"""
    guest = arena.python(code, limits={"processes": 100, "wall": 25.0})
    assert guest.said() == 0


def test_the_guest_turns_its_clock(arena: Any) -> None:  # 52
    """Neither a patched clock nor alarms of its own move the supervisor's limit."""
    code = """
answers = [tried(time.clock_settime, time.CLOCK_REALTIME, 0), tried(time.clock_settime, time.CLOCK_MONOTONIC, 0)]
time.time = time.monotonic = lambda: 0
say(answers)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True: pass"""
    guest = arena.python(code, limits={"wall": 0.3, "grace": 0.2})
    verdict = guest.end()
    assert guest.out.strip() in (b'["EPERM", "EPERM"]', b'["EPERM", "EINVAL"]')
    assert within(verdict, 300, 500)


CRASHES = {
    "shell": ["/bin/sh", "-c", "ulimit -c unlimited; ulimit -c 0; kill -SEGV $$"],
    "python": [
        sys.executable,
        "-c",
        "import os, resource\ntry: resource.setrlimit(4, (-1, -1))\nexcept Exception: pass\nos.kill(os.getpid(), 11)",
    ],
}


@pytest.mark.parametrize("how", CRASHES)
def test_the_guest_tries_to_have_a_core_dump_written(how: str, arena: Any) -> None:  # 53
    work = arena.workspace(f"core-{how}")
    argv = [os.path.realpath(CRASHES[how][0]), *CRASHES[how][1:]]
    mounts = [["Writable", {"source": str(work), "target": "/work"}]]
    guest = arena.start(argv, mounts=mounts, working_directory="/work")
    verdict = guest.end()
    assert (verdict["reason"], verdict["signal"]) == ("signal", signal.SIGSEGV), guest.err
    assert list(work.iterdir()) == []
    assert not list(Path("/").glob("core*"))
    shutil.rmtree(work)


def test_the_guest_cannot_lower_the_limit_that_keeps_crash_programs_away(arena: Any) -> None:  # 53
    """A program in core_pattern is started for a limit of 0, not for a limit of 1."""
    code = """
import resource
answers = [resource.getrlimit(resource.RLIMIT_CORE)]
for limit in ((0, 0), (0, 1), (-1, -1)):
    try: resource.setrlimit(resource.RLIMIT_CORE, limit); answers.append('done')
    except (OSError, ValueError) as problem: answers.append('refused')
say([*answers, resource.getrlimit(resource.RLIMIT_CORE)])"""
    assert arena.ask(code) == [[1, 1], "refused", "refused", "refused", [1, 1]]


def test_guests_die_with_a_runner_that_was_killed(throwaway: Any) -> None:  # 54
    guest = throwaway.python(STUBBORN + "print('UP', flush=True)\nwhile True: time.sleep(1)")
    guest.wait_for(b"UP")
    forked = throwaway.forked(STUBBORN + "print('UP', flush=True)\nwhile True: time.sleep(1)")
    forked.wait_for(b"UP")
    pids = [os.pidfd_open(each.pid) for each in (guest, forked)]
    os.kill(throwaway.process.pid, signal.SIGKILL)
    throwaway.process.wait()
    for pid in pids:
        ready, _, _ = select.select([pid], [], [], 10)
        os.close(pid)
        assert ready, "a guest outlived its runner"
    assert str(throwaway.directory) not in Path("/proc/self/mountinfo").read_text()


SWEEP = "from clawplane.sandbox.cgroups import Cgroups; Cgroups.detect().close()"


def test_groups_of_a_killed_runner_are_swept_by_the_next(throwaway: Any) -> None:  # 54
    guest = throwaway.python("print('UP', flush=True)\nsignal.pause()")
    guest.wait_for(b"UP")
    pidfd = os.pidfd_open(guest.pid)
    os.kill(throwaway.process.pid, signal.SIGKILL)
    throwaway.process.wait()
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    end = time.monotonic() + 10
    while throwaway.cgroup_bases() and time.monotonic() < end:
        subprocess.run([sys.executable, "-c", SWEEP], check=True)
    assert throwaway.cgroup_bases() == []
