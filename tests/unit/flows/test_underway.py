"""Execs that are written down before they end: those that take long, and those that a control plane leaves behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plane import Plane, ScriptedRunner, plane

from clawplane.domain.access import Caller, Scope
from clawplane.domain.clock import ManualClock
from clawplane.domain.errors import ClawplaneError, InternalError, RateLimited, StoreFull
from clawplane.domain.session_history import ExecRecord
from clawplane.domain.sessions import ExecRequest, ExecResult, SessionOptions
from clawplane.flows.chronicle import Chronicle
from clawplane.flows.execs import Execution
from clawplane.flows.underway import LONG_SECONDS, Underway

ANN = Caller(key_id="k", owner="ann", scopes=frozenset({Scope.ADMIN}))


class Kept:
    """A store that notes what it is given."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []

    async def record(self, record: ExecRecord, *, now: int) -> None:
        self.got.append((record.id, record.status))


class Table:
    """What is under way, with a clock that the test moves, and what is stored of it."""

    def __init__(self) -> None:
        self._kept = Kept()
        kept: Any = self._kept
        self.clock = ManualClock()
        self._chronicle = Chronicle(kept)
        self.underway = Underway(self._chronicle, self.clock)

    def begin(self, *ids: str, session: str = "s") -> None:
        for id_ in ids:
            self.underway.begin(session, ExecRequest(id=id_, tool="python", code="1"), self.clock.now_ms())

    async def written(self) -> list[str]:
        await self._chronicle.settle()
        assert all(status == "running" for _, status in self._kept.got)
        return [id_ for id_, _ in self._kept.got]


async def test_an_exec_is_written_once_when_it_has_been_under_way_for_a_second_and_never_before() -> None:
    table = Table()
    table.begin("a")
    table.clock.advance(LONG_SECONDS / 2)
    table.begin("b", session="other")
    assert table.underway.look()
    assert await table.written() == []
    table.clock.advance(LONG_SECONDS / 2)
    assert table.underway.look()
    assert await table.written() == ["a"]
    table.clock.advance(LONG_SECONDS)
    assert not table.underway.look()
    assert await table.written() == ["a", "b"]
    assert table.underway.end("s", "a")
    table.underway.close()


async def test_an_exec_that_ends_in_time_is_never_written_while_it_runs() -> None:
    table = Table()
    table.begin("a", "b")
    assert not table.underway.end("s", "a")
    assert not table.underway.end("s", "b")
    table.clock.advance(LONG_SECONDS)
    assert not table.underway.look()
    table.underway.close()
    assert await table.written() == []


async def test_an_exec_that_ends_before_older_ones_of_its_session_has_them_written_first() -> None:
    table = Table()
    table.begin("a", "b", "c", "d")
    table.begin("other", session="other")
    table.underway.end("s", "c")
    assert await table.written() == ["a", "b"]
    table.underway.end("s", "b")
    assert await table.written() == ["a", "b"]


async def test_what_is_under_way_when_the_control_plane_leaves_is_written() -> None:
    table = Table()
    table.begin("a", "b")
    table.underway.close()
    table.underway.close()
    assert await table.written() == ["a", "b"]


async def asked(here: Plane, runner: ScriptedRunner, code: str, session: str | None = None) -> tuple[Execution, Any]:
    """Return an exec that its runner was asked, and the question."""
    sessions = here.flows.sessions
    if session is None:
        waiting = asyncio.gather(sessions.create(ANN, SessionOptions()), runner.take())
        session = (await waiting)[0].id
    run = await sessions.prepare(ANN, session, sessions.request("python", code, detached=True), quiet=True)
    await run.__aenter__()
    return run, await runner.questions.get()


async def open_runner(here: Plane) -> ScriptedRunner:
    runner = here.runner()
    runner.capabilities = ("sessions", f"sessions@{runner.id}")
    runner.slots = dict.fromkeys(runner.capabilities, 2)
    await runner.connect()
    return runner


async def history(here: Plane, session: str) -> list[ExecRecord]:
    """Return it, oldest first."""
    _, execs = await here.flows.sessions.execs(ANN, session, limit=10, offset=0)
    return list(reversed(execs))


async def test_what_a_control_plane_left_behind_is_running_until_the_next_one_starts_and_then_unknown(
    tmp_path: Path,
) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(10):
        runner = await open_runner(here)
        run, _ = await asked(here, runner, "left = 1")
        await here.flows.sessions.close()
        (record,) = await history(here, run.session.id)
        assert (record.id, record.status, record.code, record.ended_at) == (run.id, "running", "left = 1", None)
        notebook: Any = await here.flows.sessions.notebook(ANN, run.session.id)
        (cell,) = notebook["cells"]
        assert (cell["metadata"]["clawplane"]["status"], cell["source"], cell["outputs"]) == (
            "running",
            ["left = 1"],
            [],
        )
        await here.flows.sessions.start()
        (record,) = await history(here, run.session.id)
        assert (record.id, record.status, record.started_at) == (run.id, "unknown", run.started_at)
        assert "it may have run to its end" in str(record.error)


async def test_a_control_plane_starts_although_its_store_is_full_and_leaves_that_word_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: object, *, now: int) -> None:
        raise StoreFull("There is no space left.")

    async with plane(tmp_path) as here, asyncio.timeout(10):
        runner = await open_runner(here)
        run, _ = await asked(here, runner, "left = 1")
        await here.flows.sessions.close()
        with monkeypatch.context() as broken:
            broken.setattr(type(here.store.sessions), "stop_running", full)
            await here.flows.sessions.start()
        assert [each.status for each in await history(here, run.session.id)] == ["running"]
        await here.flows.sessions.close()
        await here.flows.sessions.start()
        assert [each.status for each in await history(here, run.session.id)] == ["unknown"]


async def test_an_end_replaces_what_was_written_and_an_exec_that_was_short_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(10):
        writes: list[tuple[str, str]] = []
        record = here.store.sessions.record

        async def counted(each: ExecRecord, *, now: int) -> None:
            writes.append((each.code, each.status))
            await record(each, now=now)

        monkeypatch.setattr(here.store.sessions, "record", counted)
        runner = await open_runner(here)
        long, asked_long = await asked(here, runner, "long")
        session = long.session.id
        short, asked_short = await asked(here, runner, "short", session)
        for run, question in ((short, asked_short), (long, asked_long)):
            question.answer(msgspec.msgpack.encode(ExecResult(exec_id=run.id, session_id=session)))
            await run.result()
            await run.__aexit__(None, None, None)
            states = [(each.code, each.status) for each in await history(here, session)]
            assert states == [("long", "ok" if run is long else "running"), ("short", "ok")]
        assert writes == [("long", "running"), ("short", "ok"), ("long", "ok")]
        assert (await here.flows.sessions.find(ANN, session)).exec_count == 2
        found = await here.store.sessions.find(session)
        assert found is not None
        assert found.exec_count == 2


@pytest.mark.parametrize("overtaken", [False, True])
async def test_an_exec_that_was_refused_is_in_the_history_only_if_it_was_said_to_run(
    tmp_path: Path, overtaken: bool
) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(10):
        runner = await open_runner(here)
        first, question = await asked(here, runner, "first")
        session = first.session.id
        if overtaken:
            second, other = await asked(here, runner, "second", session)
            other.answer(msgspec.msgpack.encode(ExecResult(exec_id=second.id, session_id=session)))
            await second.result()
            await second.__aexit__(None, None, None)
        question.fail(RateLimited("Too many wait."))
        with pytest.raises(ClawplaneError, match="Too many wait"):
            await first.result()
        await first.__aexit__(None, None, None)
        states = [(each.status, each.error) for each in await history(here, session)]
        assert states == ([("unknown", "Too many wait."), ("ok", None)] if overtaken else [])


async def test_an_exec_whose_runner_failed_may_have_run_and_is_in_the_history(tmp_path: Path) -> None:
    async with plane(tmp_path) as here, asyncio.timeout(10):
        run, question = await asked(here, await open_runner(here), "1")
        question.fail(InternalError("Something broke."))
        with pytest.raises(InternalError):
            await run.result()
        await run.__aexit__(None, None, None)
        (record,) = await history(here, run.session.id)
        assert (record.status, record.error) == ("unknown", "Something broke.")
