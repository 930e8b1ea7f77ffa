"""Offers, confirmations, ends: the control plane's half of the lease, played by a scripted runner."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from plane import Plane, ScriptedRunner, claim, plane

from clawplane.domain.access import Caller, Scope
from clawplane.domain.batches import Batch, ShippedRow
from clawplane.domain.clock import ManualClock, SystemClock
from clawplane.domain.errors import StoreBusy
from clawplane.domain.leases import AttemptEnd, Finish, JobKind, Outcome
from clawplane.domain.lifecycle import RunStatus, VersionStatus
from clawplane.domain.runs import MIN_VISIBLE_MS, Run

CALLER = Caller(key_id="k", owner="owner", scopes=frozenset({Scope.ADMIN}))
ONE = b'{"parameters":{"custom":{"keywords":["a"]}}}'
THREE = b'{"parameters":{"custom":{"keywords":["a","b","c"]}}}'


async def ready(here: Plane, **more: Any) -> ScriptedRunner:
    """Return a connected runner of a plane that has one Worker."""
    runner = here.runner(**more)
    await runner.connect()
    await here.worker(runner)
    return runner


async def start(here: Plane, text: bytes = ONE) -> Run:
    return await here.flows.runs.start(CALLER, "owner~demo-worker", text)


async def settled(here: Plane, run: Run) -> Run:
    return await here.flows.runs.wait(run.slug, 5)


async def test_a_run_reaches_a_runner_that_waits(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        offer = await runner.next_offer()
        assert (offer.kind, offer.subject, offer.attempt) == (JobKind.SUBTASK, run.slug, 1)


async def test_a_run_that_waits_reaches_a_runner_that_connects(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        first = await ready(here)
        await first.disconnect()
        await start(here)
        second = here.runner()
        await second.connect()
        assert (await second.next_offer()).kind is JobKind.SUBTASK


async def test_no_more_is_offered_than_there_are_free_slots(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here, slots={"workers": 2, "builds": 1})
        await start(here, THREE)
        taken = [await runner.next_offer(), await runner.next_offer()]
        assert runner.offers.empty()
        assert (await here.store.queue.depth()).ready["workers"] == 1
        for offer in taken:
            await here.flows.leases.confirm(runner.id, claim(offer))
        await here.flows.leases.free(runner.id, {"workers": 1})
        assert (await runner.next_offer()).subject == taken[0].subject


async def test_jobs_of_a_capability_that_a_runner_lacks_are_not_offered_to_it(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        await runner.disconnect()
        builder = here.runner(capabilities=("builds",))
        await builder.connect()
        await start(here)
        worker = here.runner(capabilities=("workers",))
        await worker.connect()
        await worker.next_offer()
        assert builder.offers.empty()


async def test_a_large_run_does_not_starve_the_one_after_it(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        await runner.disconnect()
        keywords = ",".join(f'"{number}"' for number in range(900))
        large = await start(here, b'{"parameters":{"custom":{"keywords":[%s]}}}' % keywords.encode())
        small = await start(here)
        await runner.connect()
        first = [(await runner.next_offer()).subject for _ in range(8)]
        assert small.slug in first
        assert large.slug in first


async def test_a_declined_job_goes_elsewhere_until_the_runner_speaks_of_slots_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        first = await ready(here, slots={"workers": 1, "builds": 1})
        await start(here)
        offer = await first.next_offer()
        second = here.runner()
        await second.connect()
        await here.flows.leases.decline(first.id, claim(offer), "no room")
        again = await second.next_offer()
        assert (again.job, again.fence > offer.fence) == (offer.job, True)
        assert first.offers.empty()


async def test_a_count_of_slots_said_before_an_offer_arrived_leads_to_no_offer_too_many(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here, slots={"workers": 1, "builds": 1})
        await start(here)
        offer = await runner.next_offer()
        await start(here)
        await here.flows.leases.free(runner.id, {"workers": 1})  # said while the offer was on its way
        await here.flows.leases.confirm(runner.id, claim(offer))
        other = here.runner()
        await other.connect()
        assert (await other.next_offer()).job != offer.job
        assert runner.offers.empty()


async def test_an_offer_that_was_cancelled_before_it_was_taken_is_forgotten(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here, slots={"workers": 1, "builds": 1})
        run = await start(here)
        offer = await runner.next_offer()
        await here.flows.runs.abort(CALLER, run.slug)
        assert [job for job, _, _ in runner.cancels] == [offer.job]
        assert not await here.flows.leases.confirm(runner.id, claim(offer))
        assert here.flows.leases._jobs.get(offer.job) is None
        await start(here)
        await here.flows.leases.free(runner.id, {"workers": 1})
        await runner.next_offer()


async def test_what_a_runner_was_only_offered_goes_elsewhere_when_its_link_closes(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        first = await ready(here)
        await start(here)
        offer = await first.next_offer()
        second = here.runner()
        await second.connect()
        await first.disconnect()
        assert (await second.next_offer()).job == offer.job
        assert not await here.flows.leases.confirm(first.id, claim(offer))


async def test_a_lease_survives_its_link_and_tells_how_far_batches_are_stored(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        offer = await runner.take()
        await runner.ship(offer, 1, rows=[{"n": 1}])
        await runner.ship(offer, 2, rows=[{"n": 2}])
        await runner.disconnect()
        kept = await runner.connect([(offer.job, offer.fence), (offer.job, offer.fence + 99)])
        assert kept == [(offer.job, offer.fence, 2)]
        await runner.end(offer)
        assert (await settled(here, run)).result_count == 2


async def test_rows_from_a_runner_that_counted_another_ones_fence_are_refused(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        holder = await ready(here)
        run = await start(here)
        offer = await holder.take()
        stranger = here.runner(capabilities=())
        await stranger.connect()
        forged = Batch(job=offer.job, fence=offer.fence, seq=1, rows=(ShippedRow(b'{"forged":1}'),))
        assert (await here.flows.leases.ship(stranger.id, forged)).stale
        await holder.ship(offer, 1, rows=[{"n": 1}])
        await holder.end(offer)
        assert (await settled(here, run)).result_count == 1


async def test_the_same_runner_connecting_again_replaces_its_old_link(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        old = await ready(here)
        new = ScriptedRunner(here.flows.leases, old.id)
        await new.connect()
        assert old.closed is not None
        await old.disconnect()  # the old link's end must not take the new one with it
        await start(here)
        await new.next_offer()
        assert old.offers.empty()


async def test_a_runner_that_restarted_and_forgot_its_lease_gets_it_offered_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        offer = await runner.take()
        await runner.ship(offer, 1, rows=[{"n": "of the lost attempt"}])
        await runner.disconnect()
        await runner.connect(held=[])
        again = await runner.run([{"n": "of the second attempt"}])
        assert (again.job, again.attempt) == (offer.job, 2)
        ended = await settled(here, run)
        assert (ended.status, ended.result_count) == (RunStatus.SUCCEEDED, 1)


async def test_a_cancel_reaches_the_runner_at_once(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        offer = await runner.take()
        await here.flows.runs.abort(CALLER, run.slug)
        assert runner.cancels == [(offer.job, offer.fence, "aborted")]
        await runner.end(offer, succeeded=False, reason="aborted")
        ended = await settled(here, run)
        assert ended.status is RunStatus.ABORTING
        assert ended.finished_at is not None


async def test_a_cancel_during_a_broken_link_is_told_after_the_next_hello(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        offer = await runner.take()
        await runner.disconnect()
        await here.flows.runs.abort(CALLER, run.slug)
        await runner.connect([(offer.job, offer.fence)])
        await asyncio.sleep(0)
        assert [job for job, _, _ in runner.cancels] == [offer.job]


async def test_a_lease_that_was_lost_is_dropped_with_the_next_heartbeat(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        await start(here)
        offer = await runner.take()
        await here.flows.leases.heartbeat(runner.id, [(offer.job, offer.fence - 1)], {})
        assert [(job, fence) for job, fence, _ in runner.drops] == [(offer.job, offer.fence - 1)]


async def test_an_end_that_comes_at_once_leaves_time_to_abort_the_run(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        await runner.run()
        ended = await settled(here, run)
        assert ended.finished_at is not None
        assert ended.finished_at - ended.created_at >= MIN_VISIBLE_MS


async def test_an_abort_within_that_time_wins_over_the_end(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        offer = await runner.take()
        end = asyncio.create_task(runner.end(offer))
        await here.flows.runs.abort(CALLER, run.slug)
        await end
        assert (await settled(here, run)).status is RunStatus.ABORTING


async def test_an_end_is_stored_once_and_its_repetition_is_recognised(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        await start(here)
        offer = await runner.take()
        finish = Finish(claim=claim(offer), outcome=Outcome(succeeded=True, reason="exit"))
        assert (await here.flows.leases.end(runner.id, finish)).accepted
        again = await here.flows.leases.end(runner.id, finish)
        assert (again.accepted, again.repeated) == (False, True)


async def test_the_log_ends_with_the_totals_of_the_subtasks(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here, THREE)
        await runner.run()
        await runner.run()
        await runner.run(succeeded=False)
        assert (await settled(here, run)).status is RunStatus.SUCCEEDED
        lines = await here.flows.results.log_tail(run.slug)
        assert lines[-1].content == "SYSTEM: Run succeeded: 3 subtasks, 2 succeeded, 1 failed, 0 aborted."


async def test_the_log_of_a_run_aborted_before_it_began_ends_with_totals_too(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        await runner.disconnect()
        run = await start(here, THREE)
        await here.flows.runs.abort(CALLER, run.slug)
        lines = await here.flows.results.log_tail(run.slug)
        assert lines[-1].content == "SYSTEM: Run aborting: 3 subtasks, 0 succeeded, 0 failed, 3 aborted."


async def test_a_draining_runner_is_offered_nothing_more(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        leaving = await ready(here)
        await here.flows.leases.draining(leaving.id)
        assert here.flows.leases.readiness() == "Every connected runner is draining."
        staying = here.runner()
        await staying.connect()
        await start(here)
        await staying.next_offer()
        assert leaving.offers.empty()
        assert here.flows.leases.readiness() is None


async def test_a_runner_that_missed_its_heartbeats_is_offered_nothing_until_it_is_heard_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with plane(tmp_path, clock=clock) as here:
        silent = await ready(here)
        clock.advance(7)
        awake = here.runner()
        await awake.connect()
        await start(here)
        await awake.next_offer()
        assert silent.offers.empty()
        await awake.disconnect()
        await here.flows.leases.heartbeat(silent.id, [], silent.slots)
        assert (await silent.next_offer()).attempt == 1


async def test_a_subtask_that_the_runner_could_not_start_is_tried_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        for attempt in (1, 2):
            offer = await runner.take()
            assert offer.attempt == attempt
            await runner.end(offer, succeeded=False, reason="setup", message="no namespaces")
        offer = await runner.take()
        await runner.end(offer, succeeded=False, reason="setup", message="no namespaces")
        ended = await settled(here, run)
        assert (ended.status, ended.error) == (RunStatus.FAILED, "no namespaces")


async def test_a_build_that_the_runner_could_not_start_is_tried_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        worker = asyncio.create_task(here.worker(runner))
        offer = await runner.take()
        assert offer.kind is JobKind.BUILD
        await runner.end(offer, succeeded=False, reason="setup", message="the runner restarted")
        await worker
        versions = await here.flows.packages.versions(await here.flows.packages.find("owner~demo-worker"))
        assert [version.status for version in versions] == [VersionStatus.READY]


async def test_a_restarted_control_plane_takes_over_what_runs(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        offer = await runner.take()
        await runner.ship(offer, 1, rows=[{"n": 1}])
    assert runner.closed == "The control plane is shutting down."
    async with plane(tmp_path) as here:
        runner.leases = here.flows.leases
        assert await runner.connect([(offer.job, offer.fence)]) == [(offer.job, offer.fence, 1)]
        await runner.ship(offer, 2, rows=[{"n": 2}])
        await runner.end(offer)
        ended = await settled(here, run)
        assert (ended.status, ended.result_count) == (RunStatus.SUCCEEDED, 2)
        attempts = await here.store.queue.attempts(offer.job)
        assert [attempt.end for attempt in attempts] == [AttemptEnd.FINISHED]


async def test_waiting_for_a_run_wakes_with_its_end_and_not_by_looking_again_and_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        run = await start(here)
        waiting = asyncio.create_task(here.flows.runs.wait(run.slug, 30))
        await runner.run()
        async with asyncio.timeout(20):
            assert (await waiting).status is RunStatus.SUCCEEDED


async def test_waiting_gives_up_with_the_state_that_was_reached(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        await ready(here)
        run = await start(here)
        assert (await here.flows.runs.wait(run.slug, 0.01)).status is RunStatus.READY


async def test_readiness_says_what_is_missing(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        assert "No runner is connected" in str(here.flows.leases.readiness())
        await here.runner(capabilities=("builds",)).connect()
        assert "`workers`" in str(here.flows.leases.readiness())


async def test_a_loop_that_has_ended_is_no_readiness(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        await here.runner().connect()
        assert here.flows.leases.readiness() is None
        offering = next(task for task in asyncio.all_tasks() if "Offering.run" in repr(task.get_coro()))
        offering.cancel()
        await asyncio.wait([offering])
        assert "loop of the queue" in str(here.flows.leases.readiness())


async def test_a_store_that_is_busy_for_a_moment_does_not_end_the_offering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with plane(tmp_path) as here:
        runner = await ready(here)
        offer = here.store.queue.offer
        calls = 0

        async def busy_once(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise StoreBusy("The database is locked.")
            return await offer(*args, **more)

        monkeypatch.setattr(here.store.queue, "offer", busy_once)
        await start(here)
        assert (await runner.next_offer()).kind is JobKind.SUBTASK


async def test_closing_twice_and_without_a_start_is_fine(tmp_path: Path) -> None:
    async with plane(tmp_path, start=False, clock=SystemClock()) as here:
        await here.flows.leases.close()
        await here.flows.leases.close()
