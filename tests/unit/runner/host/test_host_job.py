"""Host tasks under leases: told live, ended in every way, and never lost once they have ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from clawplane.domain.asks import Nothing
from clawplane.domain.clock import SystemClock
from clawplane.domain.host_tasks import Command, HostSpec, Prompt, TaskId, TaskReport, TaskType
from clawplane.domain.ids import RunnerId, new_ulid
from clawplane.domain.leases import Finish, JobKind
from clawplane.domain.tool_uses import Decide, Decided, ToolUse, ToolUses
from clawplane.link.connection import Waits
from clawplane.link.protocol import Identity
from clawplane.runner.host.agents.events import Text
from clawplane.runner.host.agents.turn import AgentContext, ToolAsk
from clawplane.runner.host.house import HostHouse
from clawplane.runner.host.spool import SpooledEnds
from clawplane.runner.jobs.host import HostJob
from clawplane.runner.runner import Runner
from clawplane.runner.settings import RunnerSettings

TOKEN = "runner-token-of-the-tests"
QUICK = Waits(first_retry=0.01, retry=0.02, longest_retry=0.05, close_within=0.5)


class SteppingClock(SystemClock):
    """The real clocks, plus what a test adds: as if the process had been stopped meanwhile."""

    added = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.added


def spec(command: str, timeout: int = 20_000) -> HostSpec:
    work = Command(command=command, timeout=timeout)
    return HostSpec(task=TaskId("t"), type=TaskType.COMMAND, work=work, created_at=0)


def report_of(finish: Finish) -> TaskReport:
    return msgspec.msgpack.decode(finish.outcome.result, type=TaskReport)


Start = Callable[..., Awaitable[Runner]]


@pytest.fixture
async def start(server, plane, house: HostHouse, tmp_path: Path) -> AsyncIterator[Start]:
    """Start lives of one runner that does host tasks, one after the other."""
    identity = Identity(
        runner=RunnerId(new_ulid(1_780_000_000_000)),
        name="host",
        version="0",
        capabilities=("host", "host@command"),
        labels={},
        slots={"host": 3},
    )
    tasks: list[asyncio.Task[None]] = []

    async def life(clock: SystemClock | None = None, host: HostHouse = house, **changes) -> Runner:
        settings = RunnerSettings(
            url=server.url, token=TOKEN, data=tmp_path / "r", name="host", drain_seconds=0.05, **changes
        )
        ends = SpooledEnds(house.spool)
        runner = Runner(
            settings,
            identity,
            lambda offer, shipper: HostJob(offer, shipper, host, ends),
            clock=clock or SystemClock(),
            waits=QUICK,
            kept=ends.load(),
            settled=ends.remove,
        )
        before = plane.connections
        runner.task = asyncio.create_task(runner.serve())  # type: ignore[attr-defined]
        tasks.append(runner.task)  # type: ignore[attr-defined]
        await plane.changes.until(lambda: plane.connections > before, "the runner connects")
        return runner

    yield life
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def spooled(house: HostHouse) -> list[str]:
    return [name for name in os.listdir(house.spills.directory.parent / "spool") if name.endswith(".end")]


async def running(plane, command: str) -> object:
    """Offer a command that says `on` and return its offer once it has said so."""
    offer = plane.offer(JobKind.HOST, spec(f"echo on; {command}"))
    await plane.changes.until(lambda: "on" in plane.lines(offer.job), "the command runs")
    return offer


async def test_a_command_is_told_line_by_line_and_reported_whole(start, plane) -> None:
    await start()
    offer = plane.offer(JobKind.HOST, spec("echo one; printf 'two é'; echo err >&2; exit 3"))
    finish = await plane.ended(offer)
    assert plane.lines(offer.job, "stdout") == ["one", "two é"]
    assert plane.lines(offer.job, "stderr") == ["err"]
    report = report_of(finish)
    assert (report.stdout, report.stderr, report.exit_code, report.error) == ("one\ntwo é", "err\n", 3, "Exit code 3")
    assert (finish.outcome.succeeded, finish.outcome.reason, finish.outcome.exit_code) == (False, "exit", 3)


async def test_lines_are_told_before_the_command_ends(start, plane, tools) -> None:
    await start()
    offer = await running(plane, "sleep 600")
    assert offer.job not in plane.ends
    plane.connection.cancel(offer.job, offer.fence, "enough")
    finish = await plane.ended(offer)
    assert (finish.outcome.reason, finish.outcome.succeeded) == ("aborted", False)
    assert (report_of(finish).stdout, report_of(finish).exit_code) == ("on\n", -1)


async def test_a_line_that_does_not_end_is_told_when_its_command_waits(start, plane, home: Path) -> None:
    os.mkfifo(home / "pipe")
    await start()
    offer = plane.offer(JobKind.HOST, spec("printf 'half '; printf 'way'; read x < pipe; echo; echo end"))
    await plane.changes.until(lambda: plane.lines(offer.job) == ["half way"], "what there is")
    await asyncio.to_thread((home / "pipe").write_text, "go\n")
    assert report_of(await plane.ended(offer)).stdout == "half way\nend\n"
    assert plane.lines(offer.job)[-1] == "end"


async def test_a_dropped_task_is_killed_and_nothing_is_said_of_it(start, plane, house, tools) -> None:
    runner = await start()
    offer = await running(plane, "trap '' TERM; echo $$; sleep 600; sleep 600")
    await plane.changes.until(lambda: len(plane.lines(offer.job)) == 2, "its number")
    plane.take_back(offer)
    plane.connection.drop(offer.job, offer.fence, "lost")
    assert await asyncio.to_thread(tools.is_gone, int(plane.lines(offer.job)[1]))
    runner.drain()
    await runner.task
    assert (plane.ends, spooled(house)) == ({}, [])


async def test_an_end_is_on_disk_before_it_is_told_and_gone_when_it_is_acknowledged(start, plane, house) -> None:
    runner = await start()
    seen: list[list[str]] = []
    plane.before = lambda word: seen.append(spooled(house)) if word == "end" else None
    offer = plane.offer(JobKind.HOST, spec("echo x"))
    await plane.ended(offer)
    assert seen == [[f"job-{offer.job}-{offer.fence}.end"]]
    runner.drain()
    await runner.task
    assert spooled(house) == []


async def test_an_end_that_was_not_acknowledged_is_told_by_the_next_life(start, plane, house) -> None:
    first = await start()
    gate = asyncio.Event()
    plane.before = lambda word: gate.wait() if word == "end" else None
    offer = plane.offer(JobKind.HOST, spec("echo kept"))
    await plane.changes.until(lambda: any(word == "end" for word, _ in plane.said), "the end is under way")
    first.task.cancel()
    await asyncio.gather(first.task, return_exceptions=True)
    plane.before = None
    assert len(spooled(house)) == 1
    second = await start()
    finish = await plane.ended(offer)
    held = [value[1] for word, value in plane.said if word == "connected"]
    assert held[-1] == ((offer.job, offer.fence),)
    assert report_of(finish).stdout == "kept\n"
    gate.set()
    second.drain()
    await second.task
    assert spooled(house) == []


async def test_an_end_is_told_also_when_its_lease_is_gone_and_then_forgotten(start, plane, house) -> None:
    first = await start()
    plane.before = lambda word: asyncio.Event().wait() if word == "end" else None
    offer = plane.offer(JobKind.HOST, spec("echo late"))
    await plane.changes.until(lambda: any(word == "end" for word, _ in plane.said), "the end is under way")
    first.task.cancel()
    await asyncio.gather(first.task, return_exceptions=True)
    plane.take_back(offer)
    told: list[str] = []
    plane.before = told.append
    second = await start()
    await plane.changes.until(lambda: "end" in told, "the late end is told")
    await plane.changes.until(lambda: second.link.held() == (), "and answered")
    assert spooled(house) == []


async def test_a_runner_that_leaves_ends_the_task_and_reports_the_signal(start, plane) -> None:
    runner = await start()
    offer = await running(plane, "sleep 600")
    runner.drain()
    finish = await plane.ended(offer)
    await runner.task
    report = report_of(finish)
    assert (finish.outcome.reason, report.exit_code, report.metadata["signal"]) == ("signal", 143, "SIGTERM")


async def test_a_cut_of_half_a_minute_does_not_end_a_task_and_one_of_80_seconds_does(start, plane, tools) -> None:
    clock = SteppingClock()
    await start(clock)
    offer = await running(plane, "echo $$; sleep 600")
    await plane.changes.until(lambda: len(plane.lines(offer.job)) == 2, "its number")
    pid = int(plane.lines(offer.job)[1])
    clock.added = 60.0
    other = await running(plane, "true")
    await plane.ended(other)
    assert not tools.is_gone(pid, seconds=0)
    clock.added = 145.0  # the heartbeats of this link are 3 s apart: none of them was answered by now
    connections = plane.connections
    plane.connection.close("look at the clock")
    assert await asyncio.to_thread(tools.is_gone, pid)
    await plane.changes.until(lambda: plane.connections > connections, "it comes back")


async def test_what_finds_no_room_is_left_out_of_the_live_lines_and_holds_nothing_back(
    start, plane, home: Path
) -> None:
    os.mkfifo(home / "pipe")
    await start(attempt_buffer_bytes=100_000)
    gate = asyncio.Event()
    plane.before = lambda word: gate.wait() if word == "ship" else None
    offer = plane.offer(JobKind.HOST, spec("seq 100000; read x < pipe"))
    await plane.changes.until(lambda: any(word == "ship" for word, _ in plane.said), "lines are under way")
    await asyncio.to_thread((home / "pipe").write_text, "go\n")  # all was printed, though nothing was stored
    gate.set()
    finish = await plane.ended(offer)
    assert report_of(finish).stdout.endswith("99999\n100000\n")
    assert any("lines were not told live" in line for line in plane.lines(offer.job, "system"))


class AskingAdapter:
    """Uses two tools, if a person lets it."""

    def missing(self, path: str | None) -> str:
        return ""

    async def run(self, prompt: Prompt, context: AgentContext) -> TaskReport:
        assert context.ask is not None
        asks = [ToolAsk(tool=tool, detail="{}", cwd=context.cwd) for tool in ("Bash", "Write")]
        answers = await asyncio.gather(*map(context.ask, asks))
        context.told(Text(text="done"))
        said = [f"{each.allowed} {each.reason}" for each in answers]
        return TaskReport(stdout="; ".join(said), exit_code=0, metadata={"sessionId": "s-1"})


def ask(plane, offer, method: str, question: msgspec.Struct) -> Awaitable[bytes]:
    return plane.connection.ask(offer.job, offer.fence, method, msgspec.msgpack.encode(question)).answer()


async def test_a_person_decides_over_the_link_about_each_tool_that_an_agent_wants(start, plane, house) -> None:
    await start(host=replace(house, agents={"claude": AskingAdapter()}))
    work = Prompt(cli="claude", prompt="p", timeout=20_000, session_id="s", approval="tools")
    offer = plane.offer(JobKind.HOST, HostSpec(task=TaskId("t"), type=TaskType.CLAUDE, work=work, created_at=0))
    await plane.changes.until(lambda: len(plane.lines(offer.job, "sdk")) == 2, "both are told")
    told = [msgspec.json.decode(line, type=ToolUse) for line in plane.lines(offer.job, "sdk")]
    uses = msgspec.msgpack.decode(await ask(plane, offer, "tool_uses", Nothing()), type=ToolUses)
    assert uses.waiting == tuple(told)
    assert [use.tool for use in told] == ["Bash", "Write"]
    words = [
        Decide(id=told[0].id, allowed=True),
        Decide(id=told[0].id, allowed=False),
        Decide(id="none", allowed=True),
        Decide(id=told[1].id, allowed=False, reason="not that"),
    ]
    taken = [await ask(plane, offer, "decide_tool", word) for word in words]
    assert [msgspec.msgpack.decode(each, type=Decided).taken for each in taken] == [True, False, False, True]
    report = report_of(await plane.ended(offer))
    assert (report.stdout, report.metadata) == ("True ; False not that", {"sessionId": "s-1"})
    assert plane.lines(offer.job, "sdk")[2:] == ['{"kind":"text","text":"done"}']
