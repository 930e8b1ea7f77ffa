"""The ways in which an attempt ends: finished, declined, cancelled, or taken back by time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import AttemptEnd, Claim, Finish, JobKind, LeaseView, LostLease, Outcome
from clawplane.domain.ports import Expired, FinishResult
from clawplane.domain.runs import EndedRun
from clawplane.store.database import Transaction
from clawplane.store.endings import BuildVerdict, Ending
from clawplane.store.leases import KINDS, Held, Lease, held_of, id_list, leases_of
from clawplane.store.ledger import Ledger, promote_timers

_ACCEPTED = FinishResult(accepted=True)
_FINISHED, _ABORTED, _DECLINED = AttemptEnd.FINISHED.value, AttemptEnd.ABORTED.value, AttemptEnd.DECLINED.value

SETUP = "setup"
"""The reason of an outcome of which the guest saw nothing: the runner could not start it."""


class Finished(msgspec.Struct, gc=False):
    """An end that a runner reports."""

    finish: Finish
    now: int
    verdict: BuildVerdict | None = None


class Declined(NamedTuple):
    """An offer that a runner gives back; ready again after `delay_ms`."""

    claim: Claim
    runner: RunnerId
    now: int
    delay_ms: int


class Cancelled(NamedTuple):
    """Jobs that nobody wants any more."""

    jobs: tuple[JobId, ...]
    reason: str
    now: int


class Tick(NamedTuple):
    """A point in time; runners silent for `silence_ms` have lost their leases."""

    now: int
    silence_ms: int


async def finish(tx: Transaction, items: Sequence[Finished]) -> list[FinishResult]:
    """End attempts; the first accepted end of an attempt wins, even within the batch."""
    leases = await held_of(tx, [item.finish.claim.job for item in items])
    ledger = Ledger()
    accepted: list[bool] = []
    for item in items:
        claim = item.finish.claim
        lease = leases.get(claim.job)
        valid = lease is not None and lease.confirmed_at is not None and lease.answers_to(claim)
        if valid and lease is not None:
            del leases[claim.job]
            _settle(ledger, lease, item)
        accepted.append(valid)
    ended = await ledger.write(tx)
    stored = await _stored_ends(tx, [item.finish.claim for item, ok in zip(items, accepted, strict=True) if not ok])
    return [_answer(item.finish.claim, ok, ended, stored) for item, ok in zip(items, accepted, strict=True)]


def _settle(ledger: Ledger, lease: Held, item: Finished) -> None:
    outcome = item.finish.outcome
    aborted = lease.cancel is not None
    ledger.release(lease, _ABORTED if aborted else _FINISHED, item.now, outcome)
    unstarted = outcome.reason == SETUP and not outcome.succeeded
    if unstarted and not aborted and lease.attempt < lease.max_attempts:
        ledger.requeue(lease, cpu_ms=outcome.cpu_ms)
    else:
        ledger.end(lease.kind, Ending(lease.job, outcome, aborted, item.now, None if aborted else item.verdict))


def _answer(
    claim: Claim, accepted: bool, ended: dict[JobId, EndedRun], stored: set[tuple[int, int, int]]
) -> FinishResult:
    if accepted:
        run = ended.get(claim.job)
        return _ACCEPTED if run is None else FinishResult(accepted=True, run=run)
    return FinishResult(accepted=False, repeated=(claim.job, claim.fence, claim.nonce) in stored)


async def _stored_ends(tx: Transaction, claims: Sequence[Claim]) -> set[tuple[int, int, int]]:
    """Return those of the claims whose attempts ended with a reported outcome."""
    if not claims:
        return set()
    wanted = json.dumps([[claim.job, claim.fence] for claim in claims])
    return {(job, fence, nonce) for job, fence, nonce in await tx.fetch("ended_attempts", {"claims": wanted})}


async def decline(tx: Transaction, items: Sequence[Declined]) -> list[None]:
    """Give unconfirmed offers back; a word that is nobody's is ignored."""
    leases = await leases_of(tx, [item.claim.job for item in items])
    ledger = Ledger()
    for claim, runner, now, delay_ms in items:
        lease = leases.get(claim.job)
        if lease is None or lease.runner != runner or lease.confirmed_at is not None or not lease.answers_to(claim):
            continue
        del leases[claim.job]
        ledger.release(lease, _DECLINED, now)
        ledger.requeue(lease, due_at=now + delay_ms if delay_ms > 0 else None)
    await ledger.write(tx)
    return [None] * len(items)


async def cancel(tx: Transaction, items: Sequence[Cancelled]) -> list[list[LeaseView]]:
    """Cancel jobs: waiting and offered ones end now, leased ones are marked."""
    return [await cancel_jobs(tx, item) for item in items]


async def cancel_jobs(tx: Transaction, item: Cancelled) -> list[LeaseView]:
    """Cancel some jobs; return their leases, and the offers that were taken back (not confirmed)."""
    outcome = Outcome(succeeded=False, reason="aborted", message=item.reason)
    ledger = Ledger()
    for job, kind in await take_out(tx, ledger, item.jobs):
        ledger.end(kind, Ending(job, outcome, aborted=True, at=item.now))
    leases = sorted((await leases_of(tx, item.jobs)).values(), key=lambda lease: lease.fence)
    for lease in leases:
        lease.cancel = item.reason if lease.cancel is None else lease.cancel
        if lease.confirmed_at is None:
            ledger.release(lease, _ABORTED, item.now)
            ledger.end(lease.kind, Ending(lease.job, outcome, aborted=True, at=item.now))
    await tx.many("cancel_lease", [(lease.cancel, lease.job) for lease in leases if lease.confirmed_at is not None])
    await ledger.write(tx)
    return [lease.view() for lease in leases]


async def take_out(tx: Transaction, ledger: Ledger, jobs: Sequence[JobId]) -> list[tuple[JobId, str]]:
    """Remove jobs from the queue that wait, for now or for their time; return them with their kinds."""
    if not jobs:
        return []
    wanted = {"jobs": id_list(jobs)}
    waiting = await tx.fetch("waiting_jobs", wanted)
    await tx.many("delete_ready", [(caps, ready_at, job) for job, _, _, caps, ready_at in waiting])
    delayed = await tx.fetch("delayed_jobs", wanted)
    await tx.many("delete_timer", [(due_at, job) for job, _, _, _, due_at in delayed])
    found = [*waiting, *delayed]
    for _, _, _, caps, _ in found:
        ledger.counts.add(caps, ready=-1)
    return [(job, kind) for job, kind, *_ in found]


async def expire(tx: Transaction, items: Sequence[Tick]) -> list[Expired]:
    """Take back what time has ended."""
    return [await _expire(tx, item) for item in items]


async def _expire(tx: Transaction, item: Tick) -> Expired:
    # a sign from the future means that the clock was set back: let every wait begin anew rather than never end
    await tx.execute("leases_step_back", {"now": item.now})
    await tx.execute("seen_step_back", {"now": item.now})
    await promote_timers(tx, item.now)
    since = {"now": item.now, "silence": item.silence_ms}
    ends = {job: AttemptEnd(end) for job, end in await tx.fetch("lost_leases", since)}
    if not ends:
        return Expired()
    leases = await leases_of(tx, list(ends))
    ledger = Ledger()
    lost = [_take_back(ledger, leases[job], end, item.now) for job, end in ends.items()]
    ended = await ledger.write(tx)
    return Expired(lost=tuple(lost), runs=tuple(ended.values()))


def _take_back(ledger: Ledger, lease: Lease, end: AttemptEnd, now: int) -> LostLease:
    used_up = lease.confirmed_at is not None and lease.attempt >= lease.max_attempts
    # what runs on somebody's own machine is not done twice because it took too long
    over = lease.kind == JobKind.HOST and end is AttemptEnd.DEADLINE
    requeued = lease.cancel is None and not used_up and not over
    ledger.release(lease, end.value, now)
    if requeued:
        ledger.requeue(lease)
    else:
        ledger.end(lease.kind, Ending(lease.job, _outcome_of_loss(lease, end), lease.cancel is not None, now))
    return LostLease(
        job=lease.job,
        kind=KINDS[lease.kind],
        subject=lease.subject,
        runner=lease.runner,
        attempt=lease.attempt,
        fence=lease.fence,
        end=end,
        requeued=requeued,
    )


def _outcome_of_loss(lease: Lease, end: AttemptEnd) -> Outcome:
    if end is AttemptEnd.DEADLINE:
        message = f"It did not end within {lease.timeout_ms / 1000:g} s, and its runner did not stop it."
        return Outcome(succeeded=False, reason="timeout", message=message)
    times = "once" if lease.attempt == 1 else f"{lease.attempt} times"
    return Outcome(succeeded=False, reason="lost", message=f"The runner was lost while it ran ({times}).")
