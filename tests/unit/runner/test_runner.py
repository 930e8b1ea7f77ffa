"""A runner with scripted jobs against the control plane in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from clawplane.domain.batches import INFO, ShippedRow
from clawplane.domain.clock import SystemClock
from clawplane.domain.leases import JobKind, Offer, Outcome
from clawplane.link.connection import LinkRefused, Waits
from clawplane.link.server import LinkLimits
from clawplane.runner.jobs.job import CannotPrepare
from clawplane.runner.shipping import Shipper

QUICK = Waits(first_retry=0.01, retry=0.02, longest_retry=0.05, close_within=0.5)


class ScriptedJob:
    """Runs until it is told how to end."""

    def __init__(self, offer: Offer, shipper: Shipper, note: Callable[[], None]) -> None:
        self.offer = offer
        self.shipper = shipper
        self.note = note
        self.did: list[str] = []
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.preparing: Exception | None = None
        self.slow = asyncio.Event()
        self.slow.set()

    def _do(self, what: str) -> None:
        self.did.append(what)
        self.note()

    async def prepare(self) -> None:
        self._do("prepare")
        await self.slow.wait()
        if self.preparing is not None:
            raise self.preparing

    async def run(self) -> Outcome:
        self._do("run")
        return await self.outcome

    def finish(self, **values: object) -> None:
        if not self.outcome.done():
            self.outcome.set_result(Outcome(**{"succeeded": True, "reason": "exit", "exit_code": 0, **values}))

    def stop(self) -> None:
        self._do("stop")
        self.finish(succeeded=False, reason="aborted", exit_code=None)

    def kill(self) -> None:
        self._do("kill")
        self.finish(succeeded=False, reason="aborted", exit_code=None)

    async def close(self) -> None:
        self._do("close")


class Workbench:
    """The jobs a runner has made, by job id."""

    def __init__(self, note: Callable[[], None]) -> None:
        self.jobs: dict[int, ScriptedJob] = {}
        self.made: list[ScriptedJob] = []
        self._note = note
        self.prepare: Callable[[ScriptedJob], None] = lambda job: None

    def __call__(self, offer: Offer, shipper: Shipper) -> ScriptedJob:
        job = ScriptedJob(offer, shipper, self._note)
        self.prepare(job)
        self.jobs[offer.job] = job
        self.made.append(job)
        return job


@pytest.fixture
async def bench(plane) -> Workbench:
    return Workbench(plane.changes.note)


async def running(plane, bench: Workbench, kind: JobKind = JobKind.SUBTASK, job: int | None = None) -> ScriptedJob:
    offer = plane.offer(kind, b"", job=job)
    await plane.changes.until(
        lambda: any(made.offer.fence == offer.fence and "run" in made.did for made in bench.made), "the job runs"
    )
    return bench.jobs[offer.job]


async def test_an_attempt_runs_ships_and_ends(start_runner, plane, bench) -> None:
    await start_runner(bench)
    job = await running(plane, bench)
    await job.shipper.row(ShippedRow(b"{}"))
    await job.shipper.output(INFO, "line", "stdout")
    job.finish()
    finish = await plane.ended(job.offer)
    assert finish.outcome.succeeded
    assert (plane.rows(job.offer.job), plane.lines(job.offer.job)) == ([b"{}"], ["line"])
    assert job.did == ["prepare", "run", "close"]


async def test_code_runs_only_after_the_lease_is_confirmed(start_runner, plane, bench) -> None:
    await start_runner(bench)
    gate = asyncio.Event()
    plane.before = lambda word: gate.wait() if word == "confirm" else None
    offer = plane.offer(JobKind.SUBTASK, b"")
    await plane.changes.until(lambda: offer.job in bench.jobs and "prepare" in bench.jobs[offer.job].did, "prepared")
    await plane.changes.until(lambda: "confirm" in dict(plane.said), "the confirmation arrived")
    assert "run" not in bench.jobs[offer.job].did
    gate.set()
    await plane.changes.until(lambda: "run" in bench.jobs[offer.job].did, "the job runs")


async def test_slots_are_counted_down_and_up(start_runner, plane, bench) -> None:
    await start_runner(bench)
    job = await running(plane, bench)
    second = await running(plane, bench)
    job.finish()
    await plane.changes.until(lambda: plane.free_slots.get("workers") == 1, "one slot is free")
    second.finish()
    await plane.changes.until(lambda: plane.free_slots == {"workers": 2, "builds": 1}, "all slots are free")


async def test_an_offer_beyond_the_slots_is_declined(start_runner, plane, bench) -> None:
    await start_runner(bench)
    await running(plane, bench, JobKind.BUILD)
    offer = plane.offer(JobKind.BUILD, b"")
    await plane.changes.until(lambda: plane.declined, "declined")
    assert plane.declined[0][0].job == offer.job


async def test_a_stale_fence_kills_the_process_and_reports_nothing(start_runner, plane, bench) -> None:
    await start_runner(bench)
    job = await running(plane, bench)
    plane.take_back(job.offer)
    await job.shipper.row(ShippedRow(b"{}"))
    await plane.changes.until(lambda: "close" in job.did, "the job is over")
    assert "kill" in job.did
    assert plane.ends == {}
    await plane.changes.until(lambda: plane.free_slots.get("workers") == 2, "the slot is free")


async def test_a_job_that_is_offered_again_ends_the_earlier_attempt(start_runner, plane, bench) -> None:
    await start_runner(bench)
    old = await running(plane, bench)
    new = await running(plane, bench, job=old.offer.job)
    assert "kill" in old.did
    new.finish()
    assert (await plane.ended(new.offer)).claim.fence == new.offer.fence


async def test_a_cancel_stops_politely_and_reports_aborted(start_runner, plane, bench) -> None:
    await start_runner(bench)
    job = await running(plane, bench)
    plane.connection.cancel(job.offer.job, job.offer.fence, "asked")
    assert (await plane.ended(job.offer)).outcome.reason == "aborted"
    assert job.did == ["prepare", "run", "stop", "close"]


async def test_a_cancel_during_preparation_ends_the_attempt_without_a_run(start_runner, plane, bench) -> None:
    bench.prepare = lambda job: job.slow.clear()
    await start_runner(bench)
    offer = plane.offer(JobKind.SUBTASK, b"")
    await plane.changes.until(lambda: offer.job in plane.confirmed, "confirmed")
    plane.connection.cancel(offer.job, offer.fence, "asked")
    assert (await plane.ended(offer)).outcome.reason == "aborted"
    assert "run" not in bench.jobs[offer.job].did


@pytest.mark.parametrize("problem", [CannotPrepare("no disk"), RuntimeError("inner detail")])
async def test_a_preparation_that_fails_is_reported_as_setup(start_runner, plane, bench, problem) -> None:
    bench.prepare = lambda job: setattr(job, "preparing", problem)
    await start_runner(bench)
    outcome = (await plane.ended(plane.offer(JobKind.SUBTASK, b""))).outcome
    assert (outcome.succeeded, outcome.reason) == (False, "setup")
    assert "inner detail" not in outcome.message


async def test_a_job_that_cannot_be_read_is_reported_as_setup(start_runner, plane) -> None:

    def make(offer: Offer, shipper: Shipper):
        return msgspec.msgpack.decode(b"\xc1")

    await start_runner(make)
    assert "older release" in (await plane.ended(plane.offer(JobKind.SUBTASK, b""))).outcome.message


async def test_draining_takes_no_more_offers_and_waits_for_what_runs(start_runner, plane, bench) -> None:
    runner = await start_runner(bench)
    job = await running(plane, bench)
    runner.drain()
    await plane.changes.until(lambda: plane.is_draining, "draining is told")
    plane.offer(JobKind.SUBTASK, b"")
    await plane.changes.until(lambda: plane.declined, "declined")
    assert not runner.task.done()
    job.finish()
    await runner.task
    assert plane.ends[job.offer.job].outcome.succeeded


async def test_a_second_signal_gives_back_what_runs(start_runner, plane, bench) -> None:
    runner = await start_runner(bench)
    job = await running(plane, bench)
    runner.drain()
    runner.drain()
    await runner.task
    assert "kill" in job.did
    assert plane.ends[job.offer.job].outcome.reason == "setup"


async def test_the_drain_time_limit_gives_back_what_still_runs(start_runner, plane, bench, settings) -> None:
    object.__setattr__(settings, "drain_seconds", 0.05)
    runner = await start_runner(bench)
    job = await running(plane, bench)
    runner.drain()
    await runner.task
    assert plane.ends[job.offer.job].outcome.reason == "setup"


async def test_a_runner_that_is_refused_says_so_and_ends(start_runner, bench, settings) -> None:
    object.__setattr__(settings, "token", "wrong")
    runner = await start_runner(bench)
    with pytest.raises(LinkRefused):
        await runner.task


async def test_work_goes_on_while_the_control_plane_restarts(start_runner, plane, bench, server) -> None:
    await start_runner(bench, waits=QUICK)
    job = await running(plane, bench)
    await server.stop()
    await job.shipper.row(ShippedRow(b"1"))
    await server.start()
    await job.shipper.row(ShippedRow(b"2"))
    job.finish()
    assert (await plane.ended(job.offer)).outcome.succeeded
    assert plane.rows(job.offer.job) == [b"1", b"2"]


async def test_an_end_reached_without_a_link_is_reported_when_there_is_one(start_runner, plane, bench, server) -> None:
    await start_runner(bench, waits=QUICK)
    job = await running(plane, bench)
    await server.stop()
    job.finish()
    await plane.changes.until(lambda: "close" in job.did, "the job is over")
    await server.start()
    assert (await plane.ended(job.offer)).outcome.succeeded


async def test_a_guest_is_held_back_while_the_store_is_slow(start_runner, plane, bench) -> None:
    await start_runner(bench)
    job = await running(plane, bench)
    gate = asyncio.Event()
    plane.before = lambda word: gate.wait() if word == "ship" else None
    pushed = 0

    async def push() -> None:
        nonlocal pushed
        while pushed < 40:
            await job.shipper.row(ShippedRow(b"x" * (1 << 20)))
            pushed += 1

    pushing = asyncio.create_task(push())
    await plane.changes.until(lambda: "ship" in dict(plane.said), "the first batch")
    for _ in range(100):
        await asyncio.sleep(0)
    assert pushed <= 8  # the room of one attempt
    gate.set()
    await pushing
    job.finish()
    await plane.ended(job.offer)
    assert len(plane.rows(job.offer.job)) == 40


class SteppingClock(SystemClock):
    """The real clocks, plus what a test adds: as if the process had been stopped meanwhile."""

    added = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.added


class TestSilence:
    @pytest.fixture
    def limits(self) -> LinkLimits:
        return LinkLimits(heartbeat_ms=40, silence_ms=480, close_within=0.5)

    async def test_a_runner_that_hears_nothing_kills_what_it_runs(self, start_runner, plane, bench, server) -> None:
        await start_runner(bench, waits=QUICK)
        job = await running(plane, bench)
        await server.stop()
        await plane.changes.until(lambda: "close" in job.did, "the job is killed")
        assert "kill" in job.did

    async def test_a_runner_that_was_stopped_for_long_kills_what_it_ran_and_stores_nothing_of_it(
        self, start_runner, plane, bench
    ) -> None:
        clock = SteppingClock()
        await start_runner(bench, clock=clock, waits=QUICK)
        job = await running(plane, bench)
        stored = plane.stored[job.offer.job]
        clock.added = 30
        job.shipper.say("after the stop")
        job.shipper.flush()
        assert job.shipper.lost
        await plane.changes.until(lambda: "close" in job.did and plane.connections == 2, "killed, and linked anew")
        assert "kill" in job.did
        assert plane.stored[job.offer.job] == stored
        again = await running(plane, bench)
        again.finish()
        await plane.ended(again.offer)

    async def test_heartbeats_do_not_offer_slots_that_are_taken(self, start_runner, plane, bench) -> None:
        free: list[dict[str, int]] = []
        real_heartbeat = plane.heartbeat

        async def heartbeat(runner, held, slots) -> None:
            free.append(slots)
            await real_heartbeat(runner, held, slots)

        plane.heartbeat = heartbeat
        await start_runner(bench)
        await running(plane, bench)
        free.clear()
        await plane.changes.until(lambda: len(free) > 1, "heartbeats")
        assert free[-1] == {"workers": 1, "builds": 1}
