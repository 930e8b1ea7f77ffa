"""What ports.Events promises."""

from __future__ import annotations

from typing import Any

import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.leases import Claim, Finish, Outcome
from clawplane.domain.lifecycle import VersionStatus


async def kinds(bench: Any, subject: str | None = None) -> list[str]:
    events = await bench.store.events.after(0, subject=subject, limit=100)
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    return [event.kind for event in events]


async def test_every_transition_of_a_run_is_an_event_at_its_time(bench: Any) -> None:
    new = await bench.start(2)
    first, second = await bench.lease(2)
    await bench.finish(first)
    bench.clock.advance(1)
    await bench.finish(second)
    events = await bench.store.events.after(0, subject=new.run.slug, limit=9)
    assert [(event.kind, event.at) for event in events] == [
        ("run.ready", bench.now - 1000),
        ("run.running", bench.now - 1000),
        ("run.succeeded", bench.now),
    ]
    assert {event.subject for event in events} == {new.run.slug}


async def test_failing_and_aborting_are_events_too_and_an_end_is_told_once(bench: Any) -> None:
    failing, aborting = await bench.start(), await bench.start()
    one, two = await bench.lease(2)
    await bench.finish(one, succeeded=False)
    await bench.store.runs.abort(aborting.run.slug, now=bench.now)
    await bench.finish(two)
    assert await kinds(bench, failing.run.slug) == ["run.ready", "run.running", "run.failed"]
    assert await kinds(bench, aborting.run.slug) == ["run.ready", "run.running", "run.aborting"]


async def test_every_transition_of_a_version_is_an_event(bench: Any) -> None:
    worker = bench.worker()
    await bench.store.workers.create(worker)
    version, job = bench.version(worker)
    await bench.store.workers.add_version(version, job)
    (offer,) = await bench.lease(caps="builds")
    claim = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
    finish = Finish(claim=claim, outcome=Outcome(succeeded=False, reason="exit"))
    await bench.store.workers.finish_build(
        finish, status=VersionStatus.FAILED, environment=None, error="no", now=bench.now
    )
    assert await kinds(bench, f"{worker.slug}@v1.0.0") == ["version.building", "version.failed"]


async def test_events_are_told_oldest_first_behind_a_number_and_up_to_a_limit(bench: Any) -> None:
    runs = [await bench.start() for _ in range(4)]
    first, second = await bench.store.events.after(0, subject=None, limit=2)
    rest = await bench.store.events.after(second.seq, subject=None, limit=9)
    assert [event.subject for event in (first, second, *rest)] == [new.run.slug for new in runs]
    assert await bench.store.events.after(rest[-1].seq, subject=None, limit=9) == []


async def test_a_refused_run_leaves_no_event(bench: Any) -> None:
    new = bench.new_run(0)
    with pytest.raises(InvalidArgument):
        await bench.store.runs.start(new, max_running=9)
    assert await kinds(bench) == []
