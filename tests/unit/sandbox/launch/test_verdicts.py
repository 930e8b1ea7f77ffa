"""Why a process tree ended, as measured from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.policy import MIB, Limits, Overlay, ReadOnly

FORK_BOMB = """
import os, time
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
POLITE = """
import signal, sys, time
def leave(number, frame):
    print("bye")
    sys.exit(4)
signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
time.sleep(60)
"""


async def test_an_exit_code_is_reported_as_it_is(guests: Any) -> None:
    verdict = (await guests.run("sh", "-c", "exit 3")).verdict
    assert (verdict.reason, verdict.exit_code, verdict.signal) == ("exit", 3, None)


async def test_success_is_exit_code_zero(guests: Any) -> None:
    ended = await guests.run("echo", "hello")
    assert ended.verdict.succeeded
    assert ended.stdout == "hello\n"


async def test_a_signal_that_the_program_sends_itself_is_reported(guests: Any) -> None:
    verdict = (await guests.run("sh", "-c", "kill -ABRT $$")).verdict
    assert (verdict.reason, verdict.exit_code, verdict.signal) == ("signal", None, signal.SIGABRT)


async def test_the_wall_clock_ends_a_program_that_ignores_the_request_to_stop(guests: Any) -> None:
    began = time.monotonic()
    ended = await guests.run_python(STUBBORN, limits=Limits(wall=0.5, grace=0.3))
    assert ended.verdict.reason == "timeout"
    assert ended.verdict.signal == signal.SIGKILL
    assert ended.stdout == "deaf\n"
    assert 0.8 <= time.monotonic() - began < 5


async def test_a_program_may_tidy_up_when_it_is_asked_to_stop(guests: Any) -> None:
    process = await guests.start_python(POLITE)
    await guests.read_until(process, b"up")
    ended, _ = await asyncio.gather(guests.finish(process), process.stop())
    assert (ended.verdict.reason, ended.verdict.exit_code) == ("aborted", 4)
    assert ended.stdout == "bye\n"


async def test_kill_ends_a_program_at_once(guests: Any) -> None:
    process = await guests.start("sleep", "60")
    await process.ready()
    process.kill()
    assert (await process.wait()).reason == "aborted"


async def test_a_program_that_outgrows_its_memory_is_told_so(guests: Any) -> None:
    source = "keep = []\nwhile True: keep.append(bytearray(1 << 20))"
    ended = await guests.run_python(source, limits=Limits(memory=64 * MIB))
    if guests.sandbox.cgroup_mode == "none":
        assert "MemoryError" in ended.stderr
    else:
        assert ended.verdict.reason == "memory"
        assert 60 * MIB <= ended.verdict.peak_memory <= 65 * MIB
        assert "64 MiB" in ended.verdict.detail


async def test_a_child_that_outgrows_the_memory_takes_the_whole_tree_with_it(guests: Any) -> None:
    source = """
import multiprocessing, time
def grow():
    keep = []
    while True: keep.append(bytearray(1 << 20))
if __name__ == "__main__":
    for _ in range(8): multiprocessing.Process(target=grow).start()
    time.sleep(60)
"""
    ended = await guests.run_python(source, limits=Limits(memory=64 * MIB, wall=30))
    if guests.sandbox.cgroup_mode == "none":
        assert ended.verdict.reason in ("memory", "timeout") or "MemoryError" in ended.stderr
    else:
        assert ended.verdict.reason == "memory"


async def test_a_fork_bomb_is_ended_for_its_processes(guests: Any) -> None:
    ended = await guests.run_python(FORK_BOMB, limits=Limits(processes=20, wall=30))
    assert ended.verdict.reason == "processes"


async def test_more_output_than_allowed_ends_the_program(guests: Any) -> None:
    ended = await guests.run("yes", limits=Limits(output=100_000, wall=30))
    assert ended.verdict.reason == "output"
    assert len(ended.stdout) == 100_000


async def test_output_that_nobody_reads_is_counted_too(guests: Any) -> None:
    process = await guests.start("yes", limits=Limits(output=100_000, wall=30))
    assert (await process.wait()).reason == "output"


async def test_a_spinning_program_is_ended_by_its_cpu_time(guests: Any) -> None:
    ended = await guests.run_python("while True: pass", limits=Limits(cpu_time=0.5, wall=30))
    assert ended.verdict.reason == "cpu"
    assert ended.verdict.cpu_ms >= 500


async def test_the_verdict_says_how_long_and_how_much(guests: Any) -> None:
    verdict = (await guests.run_python("import time\nsum(range(3_000_000))\ntime.sleep(0.1)")).verdict
    assert verdict.succeeded
    assert 100 <= verdict.wall_ms < 5000
    assert verdict.cpu_ms >= 10
    assert verdict.peak_memory > MIB


@pytest.mark.parametrize(
    ("argv", "changes", "words"),
    [
        (["no-such-program"], {}, "cannot execute no-such-program: No such file or directory"),
        (["true"], {"working_directory": "/nowhere"}, "/nowhere: No such file or directory"),
        (["true"], {"mounts": (ReadOnly("/no/such", "/x"),)}, "ReadOnly mount at /x: "),
        (["true"], {"mounts": (ReadOnly("/usr", "/usr/none/x"),)}, "mount point /usr/none/x does not exist"),
        (["true"], {"mounts": (ReadOnly("/usr", "/../x"),)}, "without '..'"),
        (["true"], {"mounts": (Overlay("/usr/share", "/"),)}, "over the root directory"),
    ],
)
async def test_a_policy_that_cannot_be_fulfilled_gives_a_set_up_verdict_with_the_reason(
    guests: Any, argv: list[str], changes: dict[str, Any], words: str
) -> None:
    process = await guests.start(*argv, **changes)
    verdict = await process.wait()
    assert verdict.reason == "setup"
    assert words in verdict.detail
    assert await process.ready() == verdict


async def test_a_daemon_that_detached_itself_dies_with_the_main_process(guests: Any) -> None:
    ended = await guests.run("sh", "-c", "setsid sh -c 'setsid sleep 98765.4321 & sleep 98765.4321' & exec true")
    assert ended.verdict.succeeded
    assert not _host_processes(b"98765.4321")


async def test_a_daemon_that_detached_itself_dies_on_timeout(guests: Any) -> None:
    ended = await guests.run(
        "sh", "-c", f"setsid setsid sleep 98765.{os.getpid()} & exec sleep 60", limits=Limits(wall=0.3, grace=0.1)
    )
    assert ended.verdict.reason == "timeout"
    assert not _host_processes(b"98765.%d" % os.getpid())


async def test_a_detached_grandchild_that_holds_the_output_does_not_delay_the_end(guests: Any) -> None:
    began = time.monotonic()
    ended = await guests.run("sh", "-c", "setsid sleep 30 & echo done")
    assert ended.stdout == "done\n"
    assert time.monotonic() - began < 10


async def test_all_output_is_delivered_even_when_the_program_ends_first(guests: Any) -> None:
    ended = await guests.run("sh", "-c", "head -c 60000 /dev/zero | tr '\\0' x; echo err >&2")
    assert len(ended.stdout) == 60_000
    assert ended.stderr == "err\n"


async def test_orphans_are_reaped_inside(guests: Any) -> None:
    source = """
import os, time
for _ in range(30):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
deadline = time.monotonic() + 20
def is_zombie(pid):
    try: return "(zombie)" in open(f"/proc/{pid}/status").read()
    except OSError: return False
def zombies(): return [p for p in os.listdir("/proc") if p.isdigit() and is_zombie(p)]
while zombies() and time.monotonic() < deadline: pass
print(len(zombies()))
"""
    assert (await guests.run_python(source)).stdout == "0\n"


def _host_processes(word: bytes) -> list[str]:
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            try:
                command = (each / "cmdline").read_bytes()
            except OSError:
                continue
            if word in command:
                found.append(each.name)
    return found
