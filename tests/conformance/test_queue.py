"""What ports.Queue promises."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawplane.domain.errors import Conflict
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import AttemptEnd, Claim, JobKind, Want
from clawplane.domain.lifecycle import RunStatus, SubtaskStatus

OFFER_MS = 10_000
SILENCE_MS = 12_000


def claim(offer: Any) -> Claim:
    return Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)


async def statuses(bench: Any, new: Any) -> list[SubtaskStatus]:
    return [subtask.status for subtask in await bench.store.runs.subtasks(new.run.slug)]


# submit


async def test_a_submitted_job_is_offered_with_everything_that_was_given(bench: Any) -> None:
    job = bench.job(spec=b"\x00\xff", timeout_ms=7, subject="s", kind=JobKind.BUILD)
    await bench.store.queue.submit([job])
    (offer,) = await bench.offer()
    assert (offer.job, offer.kind, offer.subject, offer.spec) == (job.id, JobKind.BUILD, "s", b"\x00\xff")
    assert (offer.timeout_ms, offer.runner, offer.attempt) == (7, "r1", 1)


async def test_of_jobs_submitted_together_all_or_none_are_queued(bench: Any) -> None:
    known = bench.job()
    await bench.store.queue.submit([known])
    with pytest.raises(Conflict):
        await bench.store.queue.submit([bench.job(), known])
    assert [offer.job for offer in await bench.offer(9)] == [known.id]


async def test_a_refused_submission_does_not_harm_those_committed_with_it(bench: Any) -> None:
    known = bench.job()
    await bench.store.queue.submit([known])
    others = [bench.job() for _ in range(20)]
    submissions = [[job] for job in others[:10]] + [[bench.job(), known]] + [[job] for job in others[10:]]
    answers = await asyncio.gather(*map(bench.store.queue.submit, submissions), return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None)] * 10 + [Conflict] + [type(None)] * 10
    assert {offer.job for offer in await bench.offer(99)} == {known.id, *(job.id for job in others)}


# offer


async def test_the_earliest_ready_jobs_are_offered_first_and_equals_by_id(bench: Any) -> None:
    late, first, second = bench.job(ready_at=bench.now + 5), bench.job(), bench.job()
    await bench.store.queue.submit([late, second, first])
    assert [offer.job for offer in await bench.offer(2)] == [first.id, second.id]
    assert [offer.job for offer in await bench.offer(2)] == [late.id]


async def test_a_runner_gets_only_jobs_whose_capability_it_wants(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(caps="builds"), bench.job()])
    assert await bench.offer(5, caps="sessions") == []
    assert len(await bench.offer(5, caps="builds")) == 1
    assert len(await bench.offer(5, caps="workers")) == 1


async def test_jobs_are_spread_over_the_runners_that_want_them(bench: Any) -> None:
    await bench.store.queue.submit([bench.job() for _ in range(5)])
    wants = [Want(runner=RunnerId(name), caps="workers", count=count) for name, count in [("a", 1), ("b", 4), ("c", 0)]]
    offers = await bench.store.queue.offer(wants, now=bench.now, offer_ms=OFFER_MS)
    assert [offer.runner for offer in offers] == ["a", "b", "b", "b", "b"]
    assert len({offer.job for offer in offers}) == 5


async def test_every_offer_has_a_new_and_higher_fence_and_a_nonce(bench: Any) -> None:
    await bench.store.queue.submit([bench.job() for _ in range(4)])
    first = await bench.offer(4)
    bench.clock.advance(11)
    await bench.expire()
    second = await bench.offer(4)
    fences = [offer.fence for offer in first + second]
    assert fences == sorted(set(fences))
    assert len({offer.nonce for offer in first + second}) == 8
    assert all(0 <= offer.nonce < 1 << 53 for offer in first + second)


async def test_a_job_is_offered_to_one_runner_only_however_many_ask_at_once(bench: Any) -> None:
    await bench.store.queue.submit([bench.job() for _ in range(10)])
    offers = await asyncio.gather(*(bench.offer(3, f"r{number}") for number in range(6)))
    jobs = [offer.job for some in offers for offer in some]
    assert len(jobs) == len(set(jobs)) == 10


# confirm


async def test_a_confirmed_offer_is_a_lease_with_a_deadline_from_now(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(timeout_ms=5000)])
    (offer,) = await bench.offer()
    (before,) = await bench.store.queue.leases()
    bench.clock.advance(1)
    assert await bench.confirm(offer)
    (after,) = await bench.store.queue.leases()
    assert (before.confirmed, before.deadline_at) == (False, None)
    assert (after.confirmed, after.deadline_at) == (True, bench.now + 5000)


@pytest.mark.parametrize("change", [{"job": JobId(7)}, {"fence": 0}, {"nonce": 0}])
async def test_a_claim_that_differs_in_anything_is_not_confirmed(bench: Any, change: dict[str, int]) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.offer()
    wrong = msgspec.structs.replace(claim(offer), **change)
    assert not await bench.store.queue.confirm(wrong, offer.runner, now=bench.now)


async def test_an_offer_made_to_another_runner_is_not_confirmed(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.offer()
    assert not await bench.confirm(offer, "r2")


async def test_an_offer_is_not_confirmed_once_its_time_is_over(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.offer()
    bench.clock.advance(10)
    assert not await bench.confirm(offer)


async def test_an_offer_that_was_cancelled_meanwhile_is_not_confirmed(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.offer()
    await bench.store.queue.cancel([offer.job], "no longer wanted")
    assert not await bench.confirm(offer)


async def test_confirming_twice_with_the_same_claim_is_accepted_and_changes_nothing(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.lease()
    before = await bench.store.queue.leases()
    bench.clock.advance(30)
    assert await bench.confirm(offer)
    assert await bench.store.queue.leases() == before


async def test_of_two_confirmations_at_once_both_are_accepted_and_counted_once(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.offer()
    assert await asyncio.gather(bench.confirm(offer), bench.confirm(offer)) == [True, True]
    assert (await bench.store.queue.depth()).leased == {"workers": 1}


async def test_a_confirmed_subtask_is_running_and_its_run_with_the_first(bench: Any) -> None:
    new = await bench.start(2)
    first, second = await bench.offer(2)
    bench.clock.advance(1)
    await bench.confirm(first)
    started = await bench.run(new)
    assert (started.status, started.started_at) == (RunStatus.RUNNING, bench.now)
    assert await statuses(bench, new) == [SubtaskStatus.RUNNING, SubtaskStatus.READY]
    bench.clock.advance(1)
    await bench.confirm(second)
    assert await bench.run(new) == started


async def test_rows_of_an_earlier_attempt_are_dropped_when_its_successor_is_confirmed(bench: Any) -> None:
    new = await bench.start()
    (lost,) = await bench.lease()
    await bench.ship(lost, 1, b"1", b"2")
    bench.clock.advance(13)
    await bench.expire()
    assert await bench.bodies(new) == [b"1", b"2"]
    (successor,) = await bench.offer(runner="r2")
    assert await bench.bodies(new) == [b"1", b"2"]
    await bench.confirm(successor)
    assert await bench.bodies(new) == []
    assert (await bench.ship(successor, 1, b"3")).stored_up_to == 1
    assert await bench.bodies(new) == [b"3"]


# decline


async def test_a_declined_offer_is_ready_again_and_has_used_no_attempt(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.offer()
    await bench.store.queue.decline(claim(offer), offer.runner, now=bench.now)
    assert await bench.store.queue.leases() == []
    (again,) = await bench.offer()
    assert (again.job, again.attempt) == (offer.job, 1)
    assert [entry.end for entry in await bench.store.queue.attempts(offer.job)] == [AttemptEnd.DECLINED]


async def test_a_declined_offer_is_ready_after_the_delay_and_not_before(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.offer()
    await bench.store.queue.decline(claim(offer), offer.runner, now=bench.now, delay_ms=2000)
    assert (await bench.store.queue.depth()).ready == {"workers": 1}
    bench.clock.advance(1.999)
    assert await bench.offer() == []
    assert await bench.store.queue.next_expiry(silence_ms=SILENCE_MS) == bench.now + 1
    bench.clock.advance(0.001)
    assert len(await bench.offer()) == 1


async def test_a_lease_that_is_confirmed_cannot_be_declined(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.lease()
    await bench.store.queue.decline(claim(offer), offer.runner, now=bench.now)
    assert len(await bench.store.queue.leases()) == 1


async def test_an_offer_can_be_declined_by_its_own_runner_only(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.offer()
    await bench.store.queue.decline(claim(offer), RunnerId("r2"), now=bench.now)
    assert await bench.confirm(offer)


# finish


async def test_the_first_end_of_an_attempt_wins(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    first = await bench.finish(offer)
    second = await bench.finish(offer, succeeded=False, message="too late")
    assert (first.accepted, first.repeated) == (True, False)
    assert (second.accepted, second.repeated) == (False, True)
    assert (await bench.run(new)).status is RunStatus.SUCCEEDED
    (entry,) = await bench.store.queue.attempts(offer.job)
    assert entry.outcome is not None
    assert entry.outcome.succeeded


async def test_of_two_ends_at_once_one_is_accepted_and_one_repeated(bench: Any) -> None:
    await bench.start()
    (offer,) = await bench.lease()
    answers = await asyncio.gather(bench.finish(offer), bench.finish(offer))
    assert [(answer.accepted, answer.repeated) for answer in answers] == [(True, False), (False, True)]


async def test_an_end_with_a_stale_fence_or_a_wrong_nonce_is_neither_accepted_nor_repeated(bench: Any) -> None:
    new = await bench.start()
    (stale,) = await bench.lease()
    bench.clock.advance(13)
    await bench.expire()
    (current,) = await bench.lease(runner="r2")
    answer = await bench.finish(stale)
    assert (answer.accepted, answer.repeated) == (False, False)
    answer = await bench.finish(msgspec.structs.replace(current, nonce=current.nonce ^ 1))
    assert (answer.accepted, answer.repeated) == (False, False)
    assert (await bench.run(new)).status is RunStatus.RUNNING


async def test_the_end_of_an_offer_that_was_never_confirmed_is_not_accepted(bench: Any) -> None:
    await bench.start()
    (offer,) = await bench.offer()
    assert not (await bench.finish(offer)).accepted


async def test_a_run_ends_with_its_last_subtask_and_succeeds_when_one_did(bench: Any) -> None:
    new = await bench.start(3)
    first, second, third = await bench.lease(3)
    assert (await bench.finish(first, succeeded=False, message="no")).run is None
    assert (await bench.finish(second)).run is None
    bench.clock.advance(2)
    end = (await bench.finish(third, succeeded=False, message="no")).run
    assert end is not None
    assert (end.slug, end.status, end.totals.succeeded, end.totals.failed) == (
        new.run.slug,
        RunStatus.SUCCEEDED,
        1,
        2,
    )
    run = await bench.run(new)
    assert (run.status, run.error, run.finished_at) == (RunStatus.SUCCEEDED, "", bench.now)


async def test_a_run_without_a_success_fails_with_the_message_of_its_first_failed_subtask(bench: Any) -> None:
    new = await bench.start(2)
    first, second = await bench.lease(2)
    await bench.finish(second, succeeded=False, message="second")
    await bench.finish(first, succeeded=False, message="first")
    run = await bench.run(new)
    assert (run.status, run.error) == (RunStatus.FAILED, "first")


async def test_of_ends_that_arrive_together_the_last_one_ends_the_run(bench: Any) -> None:
    await bench.start(5)
    offers = await bench.lease(5)
    answers = await asyncio.gather(*map(bench.finish, offers))
    assert [answer.run is not None for answer in answers] == [False, False, False, False, True]


async def test_cpu_time_of_all_attempts_is_summed(bench: Any) -> None:
    new = await bench.start(2)
    first, second = await bench.lease(2)
    await bench.finish(first, cpu_ms=30)
    await bench.finish(second, succeeded=False, reason="setup", cpu_ms=5)
    (again,) = await bench.lease()
    await bench.finish(again, cpu_ms=7)
    assert (await bench.run(new)).cpu_ms == 42


async def test_a_cancelled_lease_ends_its_subtask_as_aborted_whatever_the_outcome_says(bench: Any) -> None:
    new = await bench.start(2)
    first, _ = await bench.lease(2)
    await bench.store.queue.cancel([first.job], "enough")
    assert (await bench.finish(first, succeeded=True)).accepted
    assert await statuses(bench, new) == [SubtaskStatus.ABORTED, SubtaskStatus.RUNNING]
    (entry,) = await bench.store.queue.attempts(first.job)
    assert entry.end is AttemptEnd.ABORTED
    answer = await bench.finish(first)
    assert (answer.accepted, answer.repeated) == (False, True)


async def test_an_outcome_of_setup_goes_back_to_the_queue_while_attempts_are_left(bench: Any) -> None:
    new = await bench.start(max_attempts=2)
    (first,) = await bench.lease()
    answer = await bench.finish(first, succeeded=False, reason="setup", message="no namespace")
    assert (answer.accepted, answer.run) == (True, None)
    assert await statuses(bench, new) == [SubtaskStatus.READY]
    assert (await bench.run(new)).status is RunStatus.RUNNING
    (second,) = await bench.lease()
    assert second.attempt == 2
    answer = await bench.finish(second, succeeded=False, reason="setup", message="no namespace")
    assert answer.run is not None
    assert (await bench.run(new)).error == "no namespace"


async def test_a_cancelled_lease_is_not_queued_again_for_an_outcome_of_setup(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.store.queue.cancel([offer.job], "enough")
    await bench.finish(offer, succeeded=False, reason="setup")
    assert await statuses(bench, new) == [SubtaskStatus.ABORTED]
    assert await bench.offer() == []


# heartbeat


async def test_a_heartbeat_keeps_the_leases_of_its_runner(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(), bench.job()])
    await bench.lease(1, "r1")
    (silent,) = await bench.lease(1, "r2")
    bench.clock.advance(11)
    await bench.store.queue.heartbeat(RunnerId("r1"), [], now=bench.now)
    bench.clock.advance(2)
    assert [lost.job for lost in (await bench.expire()).lost] == [silent.job]


async def test_a_heartbeat_is_told_which_leases_are_lost(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(), bench.job()])
    kept, lost = await bench.lease(2)
    await bench.finish(lost)
    held = [(kept.job, kept.fence), (lost.job, lost.fence), (kept.job, kept.fence - 1), (JobId(5), 5)]
    answer = await bench.store.queue.heartbeat(RunnerId("r1"), held, now=bench.now)
    assert answer.lost == tuple(held[1:])
    answer = await bench.store.queue.heartbeat(RunnerId("r2"), held[:1], now=bench.now)
    assert answer.lost == tuple(held[:1])


async def test_a_heartbeat_is_told_which_leases_are_to_be_cancelled(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(), bench.job()])
    kept, unwanted = await bench.lease(2)
    await bench.store.queue.cancel([unwanted.job], "enough")
    held = [(kept.job, kept.fence), (unwanted.job, unwanted.fence)]
    answer = await bench.store.queue.heartbeat(RunnerId("r1"), held, now=bench.now)
    assert (answer.lost, answer.cancels) == ((), ((unwanted.job, unwanted.fence, "enough"),))


# cancel


async def test_cancelling_marks_leases_and_returns_them(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(), bench.job()])
    one, _ = await bench.lease(2)
    (view,) = await bench.store.queue.cancel([one.job], "enough")
    assert (view.job, view.fence, view.nonce, view.cancel, view.confirmed) == (
        one.job,
        one.fence,
        one.nonce,
        "enough",
        True,
    )
    assert [lease.cancel for lease in await bench.store.queue.leases()] == ["enough", None]


async def test_the_first_reason_of_a_cancel_stays(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    (offer,) = await bench.lease()
    await bench.store.queue.cancel([offer.job], "first")
    (view,) = await bench.store.queue.cancel([offer.job], "second")
    assert view.cancel == "first"


async def test_cancelling_removes_waiting_jobs_delayed_ones_too(bench: Any) -> None:
    new = await bench.start(3)
    (delayed,) = await bench.offer()
    await bench.store.queue.decline(claim(delayed), delayed.runner, now=bench.now, delay_ms=5)
    assert await bench.store.queue.cancel([job.id for job in new.jobs], "enough") == []
    bench.clock.advance(1)
    assert await bench.offer(9) == []
    assert await statuses(bench, new) == [SubtaskStatus.ABORTED] * 3
    assert (await bench.run(new)).status is RunStatus.FAILED
    assert (await bench.store.queue.depth()).ready == {"workers": 0}


async def test_cancelling_takes_an_offer_back_at_once(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.offer()
    (view,) = await bench.store.queue.cancel([offer.job], "enough")
    assert (view.job, view.confirmed) == (offer.job, False)
    assert await bench.store.queue.leases() == []
    assert await statuses(bench, new) == [SubtaskStatus.ABORTED]


async def test_a_cancelled_lease_of_a_silent_runner_ends_as_aborted_and_is_not_queued_again(bench: Any) -> None:
    new = await bench.start()
    (offer,) = await bench.lease()
    await bench.store.queue.cancel([offer.job], "enough")
    bench.clock.advance(13)
    (lost,) = (await bench.expire()).lost
    assert not lost.requeued
    assert await statuses(bench, new) == [SubtaskStatus.ABORTED]


# expire


async def test_an_expired_offer_goes_back_to_its_old_place_and_has_used_no_attempt(bench: Any) -> None:
    early, late = bench.job(max_attempts=1), bench.job(ready_at=bench.now + 1)
    await bench.store.queue.submit([early, late])
    (offer,) = await bench.offer()
    bench.clock.advance(9.999)
    assert (await bench.expire()).lost == ()
    bench.clock.advance(0.001)
    (lost,) = (await bench.expire()).lost
    assert (lost.job, lost.fence, lost.end, lost.requeued) == (
        early.id,
        offer.fence,
        AttemptEnd.OFFER_EXPIRED,
        True,
    )
    assert [(again.job, again.attempt) for again in await bench.offer(2)] == [(early.id, 1), (late.id, 1)]


async def test_a_lease_of_a_silent_runner_is_queued_again_at_its_old_place_with_the_next_attempt(bench: Any) -> None:
    new = await bench.start()
    late = bench.job(ready_at=bench.now + 1)
    await bench.store.queue.submit([late])
    (offer,) = await bench.lease()
    bench.clock.advance(11.999)
    assert (await bench.expire()).lost == ()
    bench.clock.advance(0.001)
    (lost,) = (await bench.expire()).lost
    assert (lost.runner, lost.attempt, lost.end, lost.requeued) == ("r1", 1, AttemptEnd.RUNNER_LOST, True)
    assert await statuses(bench, new) == [SubtaskStatus.READY]
    assert [(again.job, again.attempt) for again in await bench.offer(2, "r2")] == [(offer.job, 2), (late.id, 1)]


async def test_a_lease_past_its_deadline_is_taken_back_though_its_runner_lives(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(timeout_ms=5000)])
    await bench.lease()
    bench.clock.advance(5)
    await bench.store.queue.heartbeat(RunnerId("r1"), [], now=bench.now)
    (lost,) = (await bench.expire()).lost
    assert (lost.end, lost.requeued) == (AttemptEnd.DEADLINE, True)


async def test_a_lost_lease_without_attempts_left_fails_its_subtask_and_the_run(bench: Any) -> None:
    new = await bench.start(max_attempts=2)
    for _ in range(2):
        await bench.lease()
        bench.clock.advance(13)
        expired = await bench.expire()
    assert [lost.requeued for lost in expired.lost] == [False]
    assert [(run.slug, run.status) for run in expired.runs] == [(new.run.slug, RunStatus.FAILED)]
    run = await bench.run(new)
    assert (run.status, run.error) == (RunStatus.FAILED, "The runner was lost while it ran (2 times).")
    assert await bench.offer() == []


async def test_what_a_lost_runner_says_later_is_refused(bench: Any) -> None:
    await bench.start()
    (offer,) = await bench.lease()
    bench.clock.advance(13)
    await bench.expire()
    assert not await bench.confirm(offer)
    assert (await bench.ship(offer, 1, b"{}")).stale
    assert not (await bench.finish(offer)).accepted
    answer = await bench.store.queue.heartbeat(RunnerId("r1"), [(offer.job, offer.fence)], now=bench.now)
    assert answer.lost == ((offer.job, offer.fence),)


async def test_a_clock_that_is_set_back_delays_an_end_by_no_more_than_its_own_time(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(), bench.job()])
    await bench.lease(1)
    await bench.offer(1)
    bench.clock.advance(-3600)
    assert (await bench.expire()).lost == ()
    bench.clock.advance(12)
    assert len((await bench.expire()).lost) == 2


# next_expiry


async def test_nothing_expires_while_nothing_is_offered_or_leased(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    assert await bench.store.queue.next_expiry(silence_ms=SILENCE_MS) is None


async def test_the_next_expiry_is_when_expire_has_something_to_do(bench: Any) -> None:
    await bench.store.queue.submit([bench.job(), bench.job(timeout_ms=15_000)])
    await bench.lease(1)
    await bench.lease(1, "r2")
    expected = [(12_000, AttemptEnd.RUNNER_LOST), (15_000, AttemptEnd.DEADLINE)]
    bench.clock.advance(5)
    await bench.store.queue.heartbeat(RunnerId("r2"), [], now=bench.now)
    start = bench.now - 5000
    for after, end in expected:
        assert await bench.store.queue.next_expiry(silence_ms=SILENCE_MS) == start + after
        assert (await bench.store.queue.expire(now=start + after - 1, silence_ms=SILENCE_MS)).lost == ()
        (lost,) = (await bench.store.queue.expire(now=start + after, silence_ms=SILENCE_MS)).lost
        assert lost.end is end
    (offer,) = await bench.offer()
    assert await bench.store.queue.next_expiry(silence_ms=SILENCE_MS) == bench.now + OFFER_MS
    assert offer.attempt == 2


# leases, attempts, depth, highest_job


async def test_leases_are_told_for_one_runner_or_for_all(bench: Any) -> None:
    await bench.store.queue.submit([bench.job() for _ in range(3)])
    await bench.lease(1, "r1")
    await bench.lease(2, "r2")
    assert len(await bench.store.queue.leases()) == 3
    assert {lease.runner for lease in await bench.store.queue.leases(RunnerId("r2"))} == {"r2"}


async def test_the_custody_timeline_tells_every_attempt_oldest_first(bench: Any) -> None:
    await bench.start()
    times = [bench.now]
    (declined,) = await bench.offer()
    await bench.store.queue.decline(claim(declined), declined.runner, now=bench.now)
    await bench.offer()
    bench.clock.advance(10)
    await bench.expire()
    await bench.lease()
    bench.clock.advance(12)
    await bench.expire()
    (last,) = await bench.lease(runner="r2")
    times.append(bench.now)
    await bench.finish(last, succeeded=False, reason="memory", peak_memory=9)
    entries = await bench.store.queue.attempts(last.job)
    assert [(entry.end, entry.attempt, entry.runner) for entry in entries] == [
        (AttemptEnd.DECLINED, 1, "r1"),
        (AttemptEnd.OFFER_EXPIRED, 1, "r1"),
        (AttemptEnd.RUNNER_LOST, 1, "r1"),
        (AttemptEnd.FINISHED, 2, "r2"),
    ]
    assert (entries[0].offered_at, entries[0].confirmed_at, entries[-1].confirmed_at) == (times[0], None, times[1])
    assert entries[-1].outcome is not None
    assert (entries[-1].outcome.reason, entries[-1].outcome.peak_memory) == ("memory", 9)
    assert [entry.outcome for entry in entries[:-1]] == [None] * 3


async def test_depth_counts_waiting_offered_and_leased_jobs_by_capability(bench: Any) -> None:
    await bench.store.queue.submit([bench.job() for _ in range(5)] + [bench.job(caps="builds")])
    await bench.offer(2)
    await bench.lease(1)
    depth = await bench.store.queue.depth()
    assert depth.ready == {"workers": 2, "builds": 1}
    assert depth.offered == {"workers": 2, "builds": 0}
    assert depth.leased == {"workers": 1, "builds": 0}
    bench.clock.advance(13)
    await bench.expire()
    depth = await bench.store.queue.depth()
    assert (depth.ready["workers"], depth.offered["workers"], depth.leased["workers"]) == (5, 0, 0)


async def test_the_highest_job_is_zero_at_first_and_then_the_highest_ever_stored(bench: Any) -> None:
    assert await bench.store.queue.highest_job() == 0
    await bench.store.queue.submit([bench.job(id=JobId(70)), bench.job(id=JobId(60))])
    (offer,) = await bench.lease()
    await bench.finish(offer)
    assert await bench.store.queue.highest_job() == 70


# runners


async def test_a_runner_is_kept_as_it_last_described_itself(bench: Any) -> None:
    await bench.store.queue.upsert_runner(bench.runner())
    changed = bench.runner(connected=False, draining=True, slots={"workers": 8})
    await bench.store.queue.upsert_runner(changed)
    assert await bench.store.queue.runners() == [changed]


async def test_runners_are_told_newest_first_and_a_heartbeat_is_news(bench: Any) -> None:
    await bench.store.queue.upsert_runner(bench.runner("r1"))
    await bench.store.queue.upsert_runner(bench.runner("r2", last_seen=bench.now + 1))
    assert [runner.id for runner in await bench.store.queue.runners()] == ["r2", "r1"]
    await bench.store.queue.heartbeat(RunnerId("r1"), [], now=bench.now + 2)
    assert [(runner.id, runner.last_seen) for runner in await bench.store.queue.runners()] == [
        ("r1", bench.now + 2),
        ("r2", bench.now + 1),
    ]


async def test_an_old_description_does_not_make_a_runner_look_silent(bench: Any) -> None:
    await bench.store.queue.submit([bench.job()])
    await bench.lease()
    bench.clock.advance(11)
    await bench.store.queue.heartbeat(RunnerId("r1"), [], now=bench.now)
    await bench.store.queue.upsert_runner(bench.runner(connected=False, last_seen=bench.now - 11_000))
    bench.clock.advance(11)
    assert (await bench.expire()).lost == ()
