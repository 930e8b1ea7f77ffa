"""The life of a resident: frozen, short of memory, attacked from inside, closed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from clawplane.sandbox.cgroups import Group
from clawplane.sandbox.policy import MIB, Limits, Writable
from clawplane.sandbox.polled_tree import PolledTree
from clawplane.sandbox.resident import ResidentError

PATIENCE = 40.0
GROW = "keep = []\nwhile True: keep.append(bytearray(1 << 20))"
HOLD = "x = bytearray(45 << 20); import signal; signal.pause()"
ATTACK = """
import os, resource, signal
def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as problem:
        return type(problem).__name__
    return "done"
answer = {
    "memory": attempt(open, "/proc/1/mem", "r+b"),
    "environment": attempt(open, "/proc/1/environ", "rb"),
    "descriptors": attempt(os.listdir, "/proc/1/fd"),
    "root": attempt(os.listdir, "/proc/1/root"),
    "score": attempt(open, "/proc/1/oom_score_adj", "w"),
    "limits": attempt(resource.prlimit, 1, resource.RLIMIT_NOFILE, (0, 0)),
    "attach": attempt(lambda: os.pidfd_open(1) < 0),
}
for number in signal.valid_signals():
    attempt(os.kill, 1, number)
for _ in range(2000):
    attempt(os.kill, 1, signal.SIGCHLD)
"""
LOOK = """
answer = {}
for who in ("1", "self"):
    for line in open(f"/proc/{who}/status"):
        name, _, value = line.partition(":")
        if name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
            answer.setdefault(name, set()).add(int(value, 16))
"""


async def test_what_a_member_is_it_has_from_the_start_and_pid_one_too(residents: Any) -> None:
    python = await residents.fork(await residents.open())
    zero: dict[str, set[int]] = {f"Cap{name}": {0} for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert await python.ask(LOOK) == {**zero, "NoNewPrivs": {1}, "Seccomp": {2}}


async def test_members_cannot_reach_or_end_pid_one(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    seen = await python.ask(ATTACK)
    assert seen.pop("attach") == "done"  # a descriptor of it is worth as little as its pid
    assert set(seen.values()) == {"PermissionError"}, seen
    said, _end = await residents.run(resident, "echo", "still here")
    assert said == "still here\n"


async def test_a_secret_of_one_member_is_in_the_memory_of_no_other(residents: Any) -> None:
    resident = await residents.open()
    await residents.run(resident, "true", SECRET="hunter2-hunter2")
    python = await residents.fork(resident)
    search = r"""
import re
answer = 0
with open("/proc/self/mem", "rb", buffering=0) as memory:
    for line in list(open("/proc/self/maps")):
        if " rw-p " in line:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            memory.seek(start)
            answer += len(re.findall(rb"hunter[2]-hunter2", memory.read(end - start)))
"""
    assert await python.ask(search) == 0


async def test_a_frozen_resident_makes_no_progress_and_goes_on_where_it_was(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    await resident.freeze()
    python.tell("answer = 1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(python.hear(), 0.2)
    await resident.thaw()
    assert await python.hear() == 1


FLEEING = """
import os
def flee():
    try:
        os.fork() and os._exit(0)
    except OSError:
        pass
for _ in range(3):
    if os.fork() == 0:
        while True:
            flee()
"""
"""Chains of forks: whoever looks at one process of them finds that it has gone, and left another."""


@pytest.mark.parametrize("freezer", [True, False])
async def test_forks_that_flee_from_a_freeze_are_stopped_and_go_on_afterwards(
    residents: Any, monkeypatch: pytest.MonkeyPatch, freezer: bool
) -> None:
    if not freezer:
        monkeypatch.setattr(Group, "freezes", property(lambda group: False))
    resident = await residents.open()
    tree = PolledTree(Limits())
    tree.attach(resident.pid)

    def present() -> frozenset[int]:
        return frozenset(member.pid for member in tree.members())

    python = await residents.fork(resident)
    assert await python.ask(FLEEING) is None
    for _ in range(20):
        await resident.freeze()
        await until(lambda: len({present() for _ in range(50)}) == 1)  # what is under way in the kernel ends first
        still = present()
        assert len(still) >= 4
        await resident.thaw()
        await until(lambda before=still: not before <= present())
    assert (await resident.close()).reason == "aborted"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)


async def test_whatever_needs_a_frozen_resident_thaws_it(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    for _ in range(2):
        await resident.freeze()
        said, _end = await residents.run(resident, "echo", "thawed")
        assert said == "thawed\n"
        assert not resident.frozen
    await resident.freeze()
    await resident.kill_tree(python.member)
    await resident.freeze()
    assert (await resident.close()).reason == "aborted"


async def test_a_member_that_outgrows_the_memory_ends_and_the_resident_goes_on(residents: Any) -> None:
    resident = await residents.open(limits={"memory": 80 * MIB})
    programs = [GROW] if residents.bounded else [HOLD, HOLD]  # each alone is within its own limit
    hogs = [await residents.execute(resident, residents.python, "-c", each) for each in programs]
    waiting = [asyncio.ensure_future(each.wait()) for each in hogs]
    done, _others = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    end = done.pop().result()
    assert (end.reason, end.signal) == ("memory", signal.SIGKILL)
    assert resident.oom_kills() == 1
    python = await residents.fork(resident)
    assert await python.ask("answer = 'new'") == "new"
    assert (await resident.close()).reason == "aborted"


async def test_a_hog_that_makes_itself_look_harmless_still_ends_before_pid_one(residents: Any) -> None:
    if not residents.bounded:
        pytest.skip("without memory cgroups nobody is chosen")
    resident = await residents.open(limits={"memory": 80 * MIB})
    hog = await residents.fork(resident)
    hog.tell(f"open('/proc/self/oom_score_adj', 'w').write('500')\n{GROW}")
    async with asyncio.timeout(30):
        assert (await hog.member.wait()).reason == "memory"
    assert await (await residents.fork(resident)).ask("answer = 'new'") == "new"


async def test_usage_covers_the_whole_tree(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    before = resident.usage()
    await python.ask("x = bytearray(60 << 20); sum(range(3_000_000))")
    after = resident.usage()
    assert after.cpu_ms - before.cpu_ms >= 20
    assert after.current_memory - before.current_memory > 50 * MIB
    assert after.peak_memory >= after.current_memory


async def test_closing_ends_every_member_and_twice_is_safe(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    sleeping = await residents.execute(resident, "sleep", "600")
    verdicts = await asyncio.gather(resident.close(), resident.close())
    assert {verdict.reason for verdict in verdicts} == {"aborted"}
    assert [(await each.wait()).reason for each in (python.member, sleeping)] == ["lost", "lost"]
    with pytest.raises(ResidentError, match="the sandbox has ended"):
        await residents.execute(resident, "true")
    await resident.kill_tree(sleeping)


async def test_the_loss_of_pid_one_is_a_verdict_and_the_end_of_all_members(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    os.kill(resident.pid, signal.SIGKILL)
    verdict = await resident.wait()
    assert (verdict.reason, verdict.signal) == ("signal", signal.SIGKILL)
    assert (await python.member.wait()).reason == "lost"


async def test_a_start_that_is_under_way_when_the_resident_is_closed_fails(residents: Any) -> None:
    resident = await residents.open()
    starting = [asyncio.ensure_future(residents.execute(resident, "sleep", "600")) for _ in range(5)]
    await asyncio.sleep(0)
    await resident.close()
    for each in await asyncio.gather(*starting, return_exceptions=True):
        if isinstance(each, BaseException):
            assert isinstance(each, ResidentError)
        else:
            assert (await each.wait()).reason == "lost"


async def test_a_wall_limit_bounds_the_whole_life(residents: Any) -> None:
    resident = await residents.open(limits={"wall": 0.3})
    assert (await resident.wait()).reason == "timeout"


async def test_a_resident_that_cannot_be_set_up_says_why(residents: Any) -> None:
    with pytest.raises(ResidentError, match="Writable mount at /workspace: "):
        await residents.open(mounts=(Writable("/no/such", "/workspace"),))


async def test_many_residents_come_and_go_at_once(residents: Any) -> None:
    async def one(number: int) -> int:
        resident = await residents.open()
        python = await residents.fork(resident)
        answer = await python.ask(f"answer = {number} + 1")
        await resident.close()
        return int(answer)

    assert await asyncio.gather(*(one(each) for each in range(20))) == list(range(1, 21))
