"""Execs that are stored while they run: replaced by their ends, counted once, and ended when a process stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawplane.domain.ids import JobId
from clawplane.domain.session_history import KEPT, ExecRecord
from clawplane.domain.sessions import Session, SessionOptions, SessionState
from clawplane.store import sessions as store_of_sessions


async def create(bench: Any, id_: str = "session") -> Session:
    session = Session(
        id=id_,
        owner="ann",
        state=SessionState.CREATING,
        options=SessionOptions(),
        job=JobId(sum(id_.encode())),
        created_at=bench.now,
        used_at=bench.now,
        expires_at=bench.now + 86_400_000,
    )
    stored: Session = await bench.store.sessions.create(session, bench.job(id=session.job), max_live=100)
    return stored


def record(session: Session, id_: str, status: str = "ok", **changes: Any) -> ExecRecord:
    values: dict[str, Any] = {
        "id": id_,
        "session": session.id,
        "tool": "python",
        "code": f"code of {id_}",
        "code_bytes": 12,
        "started_at": session.created_at + 1,
        "ended_at": None if status == "running" else session.created_at + 2,
        "status": status,
    }
    return ExecRecord(**(values | changes))


async def put(bench: Any, *records: ExecRecord) -> None:
    for each in records:
        await bench.store.sessions.record(each, now=bench.now)


async def history(bench: Any, session: Session) -> list[ExecRecord]:
    """Return it, oldest first."""
    count, execs = await bench.store.sessions.execs(session.id, limit=KEPT, offset=0)
    assert count == len(execs)
    return list(reversed(execs))


async def standing(bench: Any, session: Session) -> tuple[int, int]:
    found = await bench.store.sessions.find(session.id)
    assert found is not None
    return found.exec_count, found.used_at


async def test_an_exec_that_ends_takes_the_place_of_what_was_stored_while_it_ran(bench: Any) -> None:
    session = await create(bench)
    running = [record(session, name, "running") for name in ("a", "b")]
    await put(bench, *running)
    assert await history(bench, session) == running
    await put(bench, record(session, "c"), record(session, "b"))
    assert await history(bench, session) == [running[0], record(session, "b"), record(session, "c")]
    await put(bench, record(session, "a", "timeout"))
    assert [(each.id, each.status) for each in await history(bench, session)] == [
        ("a", "timeout"),
        ("b", "ok"),
        ("c", "ok"),
    ]


async def test_an_exec_that_runs_and_ends_within_one_commit_is_there_once(bench: Any) -> None:
    session = await create(bench)
    items = [record(session, "a", "running"), record(session, "b"), record(session, "a"), record(session, "c")]
    await asyncio.gather(*(bench.store.sessions.record(each, now=bench.now) for each in items))
    assert await history(bench, session) == [record(session, name) for name in "abc"]
    assert (await standing(bench, session))[0] == 3


async def test_an_exec_is_counted_when_it_ends_and_its_end_is_the_use(bench: Any) -> None:
    session = await create(bench)
    bench.clock.advance(5)
    await put(bench, record(session, "a", "running"))
    assert await standing(bench, session) == (0, session.used_at)
    bench.clock.advance(5)
    await put(bench, record(session, "a"))
    assert await standing(bench, session) == (1, bench.now)


async def test_execs_of_one_id_in_two_sessions_do_not_replace_each_other(bench: Any) -> None:
    one, two = await create(bench, "one"), await create(bench, "two")
    await put(bench, record(one, "a", "running"), record(two, "b"), record(two, "a"))
    assert await history(bench, one) == [record(one, "a", "running")]
    assert await history(bench, two) == [record(two, "b"), record(two, "a")]


async def test_a_history_stays_bounded_with_execs_that_run(bench: Any) -> None:
    session = await create(bench)
    await put(bench, record(session, "first", "running"), record(session, "second", "running"))
    await put(bench, *(record(session, f"{number}") for number in range(KEPT - 1)))
    assert [each.id for each in (await history(bench, session))[:2]] == ["second", "0"]
    await put(bench, record(session, "second"))
    kept = await history(bench, session)
    assert (len(kept), kept[0]) == (KEPT, record(session, "second"))


@pytest.mark.parametrize("at_once", [1, 500])
async def test_what_ran_when_the_process_stopped_ends_as_unknown_and_is_counted_once(
    bench: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_of_sessions, "_STOPPED_AT_ONCE", at_once)
    one, two = await create(bench, "one"), await create(bench, "two")
    await put(bench, record(one, "a", "running"), record(one, "b"), record(two, "c", "running"))
    bench.clock.advance(3600)
    for _ in range(2):
        await bench.store.sessions.stop_running(now=bench.now)
    stopped, ended = await history(bench, one)
    assert (stopped.status, stopped.code, stopped.started_at) == ("unknown", "code of a", one.created_at + 1)
    assert (stopped.ended_at, ended) == (bench.now, record(one, "b"))
    assert "control plane stopped" in str(stopped.error)
    assert "next exec" in str(stopped.error)
    assert [each.status for each in await history(bench, two)] == ["unknown"]
    assert await standing(bench, one) == (2, one.created_at + 1)
    assert await standing(bench, two) == (1, two.created_at + 1)
