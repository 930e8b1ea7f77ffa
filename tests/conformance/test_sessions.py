"""Sessions: created with their job, placed by its lease, asleep or ended with it; histories and workspaces."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from clawplane.domain.errors import ConcurrencyLimited, Conflict, Unavailable
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import JobKind, Offer
from clawplane.domain.session_history import KEPT, ExecRecord
from clawplane.domain.session_rules import CLOSED, EXPIRED, LOST, SAVED
from clawplane.domain.sessions import LiveState, Session, SessionOptions, SessionState

_numbers = itertools.count(1)


def new(bench: Any, **changes: Any) -> Session:
    options = SessionOptions(name=changes.pop("name", ""), workspace=changes.pop("workspace", None))
    number = next(_numbers)
    values: dict[str, Any] = {
        "id": f"session-{number:05}",
        "owner": "ann",
        "state": SessionState.CREATING,
        "options": options,
        "job": JobId(50_000 + number),
        "created_at": bench.now,
        "used_at": bench.now,
        "expires_at": bench.now + 86_400_000,
    }
    return Session(**(values | changes))


def job_of(bench: Any, session: Session, **changes: Any) -> Any:
    return bench.job(
        **{"id": session.job, "kind": JobKind.SESSION, "subject": session.id, "caps": "sessions", "max_attempts": 1}
        | changes
    )


async def create(bench: Any, *, max_live: int = 100, **changes: Any) -> Session:
    session = new(bench, **changes)
    stored: Session = await bench.store.sessions.create(session, job_of(bench, session), max_live=max_live)
    return stored


async def placed(bench: Any, runner: str = "r1", **changes: Any) -> tuple[Session, Offer]:
    session = await create(bench, **changes)
    (offer,) = await bench.lease(1, runner, (session.runner and f"sessions@{session.runner}") or "sessions")
    return await found(bench, session), offer


async def found(bench: Any, session: Session) -> Session:
    stored = await bench.store.sessions.find(session.id)
    assert stored is not None
    return stored


async def live(bench: Any, session: Session, state: SessionState = SessionState.RUNNING, **more: Any) -> None:
    await bench.store.sessions.note(session.id, session.job, LiveState(state=state, **more), now=bench.now)


def record(session: Session, number: int = 1, **changes: Any) -> ExecRecord:
    values: dict[str, Any] = {
        "id": f"exec-{number}",
        "session": session.id,
        "tool": "python",
        "code": "1 + 1",
        "code_bytes": 5,
        "started_at": 1,
        "ended_at": 2,
        "status": "ok",
        "results": ({"text/plain": "2", "_main": True},),
    }
    return ExecRecord(**(values | changes))


async def kinds(bench: Any, session: Session) -> list[str]:
    return [event.kind for event in await bench.store.events.after(0, subject=session.id, limit=100)]


# create and find


async def test_a_session_is_stored_with_its_job_and_found_again(bench: Any) -> None:
    session = await create(bench)
    assert await found(bench, session) == session
    (offer,) = await bench.offer(1, caps="sessions")
    assert (offer.job, offer.kind, offer.subject) == (session.job, JobKind.SESSION, session.id)


async def test_a_live_session_of_the_same_name_is_returned_in_place_of_a_second_one(bench: Any) -> None:
    first = await create(bench, name="mine")
    assert (await create(bench, name="mine")).id == first.id
    assert (await create(bench, name="mine", owner="bob")).id != first.id
    assert len(await bench.offer(9, caps="sessions")) == 2
    await bench.store.sessions.end(first.id, "deleted", now=bench.now)
    assert (await create(bench, name="mine")).id != first.id


async def test_an_owner_has_no_more_sessions_than_allowed_and_ended_ones_do_not_count(bench: Any) -> None:
    first, _ = await create(bench), await create(bench)
    with pytest.raises(ConcurrencyLimited):
        await create(bench, max_live=2)
    await create(bench, max_live=2, owner="bob")
    await bench.store.sessions.end(first.id, "deleted", now=bench.now)
    await create(bench, max_live=2)


async def test_pages_are_newest_first_and_chosen_by_owner_state_and_name(bench: Any) -> None:
    old, named, other = await create(bench), await create(bench, name="n"), await create(bench, owner="bob")
    await bench.store.sessions.end(old.id, "deleted", now=bench.now)

    async def page(**wanted: Any) -> tuple[int, list[str]]:
        chosen = {"owner": "ann", "state": None, "ended": True, "name": "", "limit": 10, "offset": 0} | wanted
        count, sessions = await bench.store.sessions.page(**chosen)
        return count, [session.id for session in sessions]

    assert await page() == (2, [named.id, old.id])
    assert await page(limit=1, offset=1) == (2, [old.id])
    assert await page(state=SessionState.ENDED) == (1, [old.id])
    assert await page(ended=False) == (1, [named.id])
    assert await page(name="n") == (1, [named.id])
    assert await page(owner=None) == (3, [other.id, named.id, old.id])


async def test_an_unknown_session_is_none(bench: Any) -> None:
    assert await bench.store.sessions.find("nothing") is None
    assert await bench.store.sessions.end("nothing", "deleted", now=bench.now) is None
    assert await bench.store.sessions.wake("nothing", bench.job(), now=bench.now) is None


# what becomes of it with its lease


async def test_a_confirmed_lease_lets_its_session_run_where_the_runner_is(bench: Any) -> None:
    session, _ = await placed(bench, "r7")
    assert (session.state, session.runner) == (SessionState.RUNNING, "r7")


@pytest.mark.parametrize("reason", [SAVED, LOST, "signal"])
async def test_a_session_that_was_saved_or_lost_sleeps_where_its_files_are(bench: Any, reason: str) -> None:
    session, offer = await placed(bench)
    await live(bench, session)
    await bench.finish(offer, succeeded=False, reason=reason, message="so it is")
    session = await found(bench, session)
    assert (session.state, session.runner, session.ended_at) == (SessionState.SLEEPING, "r1", None)
    assert "so it is" in session.end_reason


@pytest.mark.parametrize("reason", [CLOSED, EXPIRED])
async def test_a_session_that_was_closed_or_has_expired_has_ended(bench: Any, reason: str) -> None:
    session, offer = await placed(bench)
    await live(bench, session)
    bench.clock.advance(3)
    await bench.finish(offer, reason=reason)
    session = await found(bench, session)
    assert (session.state, session.ended_at) == (SessionState.ENDED, bench.now)
    assert session.end_reason


async def test_a_session_that_could_never_be_started_has_ended_and_says_why(bench: Any) -> None:
    session, offer = await placed(bench)
    await bench.finish(offer, succeeded=False, reason="setup", message="no such profile")
    session = await found(bench, session)
    assert session.state is SessionState.ENDED
    assert "no such profile" in session.end_reason


async def test_a_session_of_a_silent_runner_sleeps_and_is_offered_to_nobody(bench: Any) -> None:
    session, _ = await placed(bench)
    await live(bench, session)
    bench.clock.advance(13)
    (lost,) = (await bench.expire()).lost
    assert not lost.requeued
    session = await found(bench, session)
    assert session.state is SessionState.SLEEPING
    assert "lost" in session.end_reason
    assert await bench.offer(9, caps="sessions") == []


async def test_an_offer_that_nobody_took_leaves_its_session_waiting(bench: Any) -> None:
    session = await create(bench)
    await bench.offer(1, caps="sessions")
    bench.clock.advance(10)
    await bench.expire()
    assert (await found(bench, session)).state is SessionState.CREATING
    assert len(await bench.lease(1, "r2", "sessions")) == 1
    assert (await found(bench, session)).runner == "r2"


async def test_every_change_of_state_is_an_event(bench: Any) -> None:
    session, offer = await placed(bench)
    await live(bench, session)
    await live(bench, session, SessionState.SLEEPING)
    await live(bench, session)
    await bench.finish(offer, reason=SAVED)
    await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    states = ["creating", "running", "sleeping", "running", "sleeping", "ended"]
    assert await kinds(bench, session) == [f"session.{state}" for state in states]


# note


async def test_what_a_runner_notes_is_kept(bench: Any) -> None:
    session, _ = await placed(bench)
    await live(bench, session, SessionState.SLEEPING, sleeps_at=5, expires_at=9)
    session = await found(bench, session)
    assert (session.state, session.sleeps_at, session.expires_at) == (SessionState.SLEEPING, 5, 9)


async def test_a_note_of_an_earlier_life_or_of_an_ended_session_is_ignored(bench: Any) -> None:
    session, _ = await placed(bench)
    old = msgspec.structs.replace(session, job=JobId(1))
    await live(bench, old, SessionState.SLEEPING)
    assert (await found(bench, session)).state is SessionState.RUNNING
    await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    await live(bench, session)
    assert (await found(bench, session)).state is SessionState.ENDED


# wake


async def asleep(bench: Any, runner: str = "r1", **changes: Any) -> Session:
    session, offer = await placed(bench, runner, **changes)
    await live(bench, session)
    await bench.finish(offer, reason=SAVED)
    return await found(bench, session)


async def test_a_sleeping_session_wakes_with_a_new_job_on_the_runner_that_has_its_files(bench: Any) -> None:
    session = await asleep(bench, "r3")
    job = bench.job(kind=JobKind.SESSION, subject=session.id, caps="sessions", max_attempts=1)
    woken = await bench.store.sessions.wake(session.id, job, now=bench.now)
    assert (woken.state, woken.job, woken.lives) == (SessionState.CREATING, job.id, 2)
    assert await bench.offer(1, "r1", "sessions") == []
    (offer,) = await bench.lease(1, "r3", "sessions@r3")
    assert offer.job == job.id
    assert (await found(bench, session)).state is SessionState.RUNNING


async def test_a_session_is_woken_once_however_many_ask(bench: Any) -> None:
    session = await asleep(bench)
    first, second = (bench.job(kind=JobKind.SESSION, subject=session.id) for _ in range(2))
    await bench.store.sessions.wake(session.id, first, now=bench.now)
    again = await bench.store.sessions.wake(session.id, second, now=bench.now)
    assert (again.job, again.lives) == (first.id, 2)
    assert len(await bench.offer(9, "r1", "sessions@r1")) == 1


async def test_a_session_frozen_in_memory_keeps_its_job_and_an_ended_one_gets_none(bench: Any) -> None:
    session, _ = await placed(bench)
    await live(bench, session, SessionState.SLEEPING)
    kept = await bench.store.sessions.wake(session.id, bench.job(kind=JobKind.SESSION), now=bench.now)
    assert (kept.job, kept.state) == (session.job, SessionState.SLEEPING)
    await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    assert await bench.store.sessions.wake(session.id, bench.job(kind=JobKind.SESSION), now=bench.now) is None


async def test_a_session_that_never_lived_may_wake_anywhere(bench: Any) -> None:
    session, _ = await placed(bench)
    bench.clock.advance(13)
    await bench.expire()
    session = await found(bench, session)
    assert (session.state, session.runner) == (SessionState.SLEEPING, None)
    await bench.store.sessions.wake(session.id, bench.job(kind=JobKind.SESSION), now=bench.now)
    assert len(await bench.offer(9, "r9", "sessions")) == 1


# end and litter


async def test_ending_a_session_cancels_its_lease_and_is_final(bench: Any) -> None:
    session, offer = await placed(bench)
    ended = await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    assert (ended.session.state, ended.session.end_reason) == (SessionState.ENDED, "deleted")
    assert [(lease.job, lease.cancel) for lease in ended.leases] == [(offer.job, "deleted")]
    await bench.finish(offer, succeeded=False, reason=LOST)
    assert (await found(bench, session)).end_reason == "deleted"
    assert await bench.store.sessions.end(session.id, "again", now=bench.now) is None


async def test_a_waiting_session_that_is_ended_is_offered_to_nobody(bench: Any) -> None:
    session = await create(bench)
    await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    assert await bench.offer(9, caps="sessions") == []


async def test_what_is_saved_of_a_deleted_session_is_litter_until_it_is_swept(bench: Any) -> None:
    session = await asleep(bench, "r2")
    await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    assert await bench.store.sessions.litter(RunnerId("r2")) == [session.id]
    assert await bench.store.sessions.litter(RunnerId("r1")) == []
    await bench.store.sessions.swept(RunnerId("r2"), [session.id])
    assert await bench.store.sessions.litter(RunnerId("r2")) == []


async def test_a_runner_that_clears_away_a_deleted_session_leaves_no_litter_and_one_that_dies_does(bench: Any) -> None:
    session, offer = await placed(bench)
    await live(bench, session)
    await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    await bench.finish(offer, reason=CLOSED)
    assert await bench.store.sessions.litter(RunnerId("r1")) == []
    session, _ = await placed(bench)
    await live(bench, session)
    await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    bench.clock.advance(13)
    await bench.expire()
    assert await bench.store.sessions.litter(RunnerId("r1")) == [session.id]


# history


async def test_a_history_is_newest_first_and_counts_execs(bench: Any) -> None:
    session = await create(bench)
    bench.clock.advance(5)
    for number in range(3):
        await bench.store.sessions.record(record(session, number), now=bench.now)
    count, execs = await bench.store.sessions.execs(session.id, limit=2, offset=0)
    assert (count, execs) == (3, [record(session, 2), record(session, 1)])
    _, execs = await bench.store.sessions.execs(session.id, limit=2, offset=2)
    assert execs == [record(session, 0)]
    session = await found(bench, session)
    assert (session.exec_count, session.used_at) == (3, bench.now)
    assert session.expires_at == bench.now + 86_400_000


async def test_a_history_keeps_a_bounded_number_of_execs(bench: Any) -> None:
    session = await create(bench)
    for number in range(KEPT + 5):
        await bench.store.sessions.record(record(session, number), now=bench.now)
    count, execs = await bench.store.sessions.execs(session.id, limit=KEPT, offset=0)
    assert (count, execs[-1].id) == (KEPT, "exec-5")


async def test_the_history_of_a_session_that_nobody_uses_is_forgotten(bench: Any) -> None:
    old, young = await create(bench), await create(bench)
    await bench.store.sessions.record(record(old), now=bench.now)
    bench.clock.advance(100)
    await bench.store.sessions.record(record(young), now=bench.now)
    assert not await bench.store.sessions.prune_history(used_before=bench.now)
    assert await bench.store.sessions.execs(old.id, limit=1, offset=0) == (0, [])
    assert (await bench.store.sessions.execs(young.id, limit=1, offset=0))[0] == 1
    assert await bench.store.sessions.prune_history(used_before=bench.now + 1, limit=1)
    assert not await bench.store.sessions.prune_history(used_before=bench.now + 1, limit=1)
    assert (await bench.store.sessions.execs(young.id, limit=1, offset=0))[0] == 0


# expiry


async def test_sessions_expire_when_their_time_is_over_whether_they_sleep_or_run(bench: Any) -> None:
    running, _ = await placed(bench)
    sleeping = await asleep(bench)
    await create(bench, expires_at=None)
    assert await bench.store.sessions.next_expiry() == running.expires_at
    assert await bench.store.sessions.expired(now=bench.now) == []
    bench.clock.advance(86_400)
    assert {session.id for session in await bench.store.sessions.expired(now=bench.now)} == {running.id, sleeping.id}


async def test_a_fixed_end_takes_the_place_of_the_idle_time(bench: Any) -> None:
    session = await create(bench, expires_at=None)
    assert await bench.store.sessions.next_expiry() is None
    await bench.store.sessions.set_end(session.id, bench.now + 1000)
    await bench.store.sessions.record(record(session), now=bench.now + 900)
    assert (await found(bench, session)).expires_at == bench.now + 1000
    assert [one.id for one in await bench.store.sessions.expired(now=bench.now + 1000)] == [session.id]
    await bench.store.sessions.set_end(session.id, None)
    assert await bench.store.sessions.next_expiry() is None


# workspaces


async def test_a_named_workspace_is_where_its_first_session_was_placed(bench: Any) -> None:
    first, _ = await placed(bench, "r5", workspace="data")
    (workspace,) = await bench.store.sessions.workspaces("ann")
    assert (workspace.name, workspace.runner, workspace.sessions) == ("data", "r5", (first.id,))
    second = await create(bench, workspace="data")
    assert second.runner == "r5"
    assert await bench.offer(9, "r1", "sessions") == []
    assert [offer.job for offer in await bench.offer(9, "r5", "sessions@r5")] == [second.job]
    assert await bench.store.sessions.workspaces("bob") == []


async def test_a_workspace_that_is_being_made_cannot_be_attached_yet(bench: Any) -> None:
    first = await create(bench, workspace="data")
    with pytest.raises(Unavailable, match="workspace"):
        await create(bench, workspace="data")
    await bench.store.sessions.end(first.id, "deleted", now=bench.now)
    await create(bench, workspace="data")


async def test_a_workspace_is_removed_only_when_no_session_is_attached(bench: Any) -> None:
    session, offer = await placed(bench, workspace="data")
    with pytest.raises(Conflict, match=session.id):
        await bench.store.sessions.remove_workspace("ann", "data")
    await bench.store.sessions.end(session.id, "deleted", now=bench.now)
    await bench.finish(offer, reason=CLOSED)
    removed = await bench.store.sessions.remove_workspace("ann", "data")
    assert removed.runner == "r1"
    assert await bench.store.sessions.remove_workspace("ann", "data") is None
