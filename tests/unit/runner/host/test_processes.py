"""The keeper of process trees: who dies when, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clawplane.runner.host import keeper
from clawplane.runner.host.processes import CannotStart, Ended, Processes, Program


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    made = Processes(f"processes-{os.getpid()}-{tmp_path.name}")
    await made.open()
    yield made
    await made.close()


def bash(text: str, **options) -> Program:
    return Program(["/bin/bash", "-c", text], Path("/"), {"PATH": os.defpath}, **options)


async def test_input_arrives_whole_and_ends(processes: Processes) -> None:
    count = await processes.run(bash("wc -c", stdin=b"x" * 5_000_000), seconds=20)
    assert count.stdout == "5000000\n"


async def test_a_program_that_does_not_read_its_input_ends_as_it_likes(processes: Processes) -> None:
    ended = await processes.run(bash("exec <&-; echo on; exit 4", stdin=b"x" * 5_000_000), seconds=20)
    assert (ended.stdout, ended.code) == ("on\n", 4)


@pytest.mark.parametrize(
    ("argv", "cwd", "code"), [("/no/such/program", "/", 2), ("/etc/passwd", "/", 13), ("/bin/true", "/no/directory", 2)]
)
async def test_what_cannot_be_started_says_why(processes: Processes, argv: str, cwd: str, code: int) -> None:
    with pytest.raises(CannotStart) as failed:
        await processes.run(Program([argv], Path(cwd), {}), seconds=5)
    assert (failed.value.code, str(failed.value)) == (code, os.strerror(code))
    assert (await processes.run(bash("echo fine"), seconds=20)).stdout == "fine\n"


async def test_a_program_begins_with_ordinary_signals_and_nothing_else_open(processes: Processes) -> None:
    text = "ls /proc/self/fd | wc -l; grep -E 'Sig(Ign|Blk)' /proc/self/status; ps -o pgid= -p $$; echo $$"
    ended = await processes.run(bash(text), seconds=20)
    descriptors, blocked, ignored, group, own = ended.stdout.split("\n")[:5]
    assert int(descriptors) == 4  # the three, and the listing's own
    of_libc = 0b11 << 31  # signals 32 and 33 are the C library's own: no program can be given them back
    assert [int(mask.split()[1], 16) & ~of_libc for mask in (blocked, ignored)] == [0, 0]
    assert group.strip() == own


async def test_killing_the_keeper_ends_the_task_and_whoever_it_had_started(processes: Processes, tools) -> None:
    heard = tools.Heard()
    ended = await processes.run(
        bash("(setsid sleep 600 & echo $!); echo; kill -9 $PPID; sleep 600"), seconds=20, tell=heard
    )
    assert (ended.code, ended.signal) == (137, "SIGKILL")
    assert tools.is_gone(int(heard.text["stdout"]))


async def test_after_the_nursery_was_killed_the_next_task_finds_another(processes: Processes, tools) -> None:
    first = await processes.run(bash("ps -o ppid= -p $PPID"), seconds=20)
    nursery = int(first.stdout)
    os.kill(nursery, signal.SIGKILL)
    assert tools.is_gone(nursery)
    assert (await processes.run(bash("echo again"), seconds=20)).stdout == "again\n"


async def test_tasks_do_not_end_one_another(processes: Processes) -> None:
    async def one(seconds: float) -> Ended:
        return await processes.run(bash("(setsid sleep 600 &) ; sleep 600"), seconds=seconds)

    long = asyncio.create_task(processes.run(bash("read x; echo $x", stdin=None), seconds=20))
    short = await asyncio.gather(*(one(0.2) for _ in range(5)))
    assert {each.how for each in short} == {"timeout"}
    assert (await long).code in (0, 1)


async def test_a_storm_of_forks_is_ended(processes: Processes, tools) -> None:
    storm = "f() { while :; do (setsid bash -c 'exec sleep 600' &) ; done; }; trap '' TERM; f & f & wait"
    ended = await processes.run(bash(storm), seconds=0.5, grace=0.1)
    assert ended.how == "timeout"
    mark = f"CLAWPLANE_HOST_TASK={processes._mark}/"
    assert keeper.kill_marked(mark) == 0


async def test_when_the_runner_is_killed_its_tasks_die_with_it(tools, tmp_path: Path) -> None:
    program = """
import asyncio, os, sys
from pathlib import Path
from clawplane.runner.host.processes import Processes, Program
async def main():
    made = Processes("killed-" + sys.argv[1])
    await made.open()
    text = "trap '' TERM HUP; (setsid sleep 600 & echo $!); echo $$; while :; do sleep 600; done"
    tell = lambda stream, text: print(text, end="", flush=True)
    await made.run(Program(["/bin/bash", "-c", text], Path("/"), {"PATH": os.defpath}), seconds=600, tell=tell)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program, tmp_path.name], stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        pids = [int(runner.stdout.readline()) for _ in range(2)]
        runner.send_signal(signal.SIGKILL)
    assert all(tools.is_gone(pid) for pid in pids)


async def test_the_next_start_ends_what_an_earlier_life_has_left_behind(tools, tmp_path: Path) -> None:
    mark = f"left-{tmp_path.name}"
    left = subprocess.Popen(["/bin/sleep", "600"], env={"CLAWPLANE_HOST_TASK": f"{mark}/3"})
    other = subprocess.Popen(["/bin/sleep", "600"], env={"CLAWPLANE_HOST_TASK": f"{mark}2/3"})
    try:
        made = Processes(mark)
        await made.open()
        await made.close()
        assert left.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_nothing_is_left_open_after_many_tasks(processes: Processes) -> None:
    await processes.run(bash("true"), seconds=20)
    before = set(os.listdir("/proc/self/fd"))
    await asyncio.gather(*(processes.run(bash("echo x; cat", stdin=b"y"), seconds=20) for _ in range(20)))
    await asyncio.sleep(0)
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the listing's own
    assert len(asyncio.all_tasks()) == 1


def test_a_number_that_went_to_another_process_is_not_signalled() -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as sleeper:
        seen = keeper.processes()[sleeper.pid]
        seen.born = "1"
        assert keeper.send(seen, signal.SIGKILL)
        assert sleeper.poll() is None
        sleeper.kill()


async def test_a_keeper_that_was_stopped_is_killed_with_what_it_kept(processes: Processes, tools, monkeypatch) -> None:
    monkeypatch.setattr("clawplane.runner.host.life.GONE_SECONDS", 0.3)
    heard = tools.Heard()
    text = "(setsid sleep 600 & echo $!); echo $PPID; kill -STOP $PPID; sleep 600"
    ended = await processes.run(bash(text), seconds=0.5, grace=0.1, tell=heard)
    assert ended.how == "timeout"
    assert all(tools.is_gone(int(line)) for line in heard.text["stdout"].split())


async def test_a_nursery_that_was_stopped_is_replaced(processes: Processes, monkeypatch) -> None:
    monkeypatch.setattr("clawplane.runner.host.processes._START_SECONDS", 0.5)
    found = await processes.run(bash("ps -o ppid= -p $PPID"), seconds=20)
    os.kill(int(found.stdout), signal.SIGSTOP)
    with pytest.raises(CannotStart, match="does not answer"):
        await processes.run(bash("true"), seconds=20)
    monkeypatch.undo()
    assert (await processes.run(bash("echo fine"), seconds=20)).stdout == "fine\n"
