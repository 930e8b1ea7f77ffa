"""The queue and its leases: submit, offer, confirm, decline, finish, heartbeat, cancel, expire.

Each change is an operation over a batch (see database.py). Leases of a batch are read in one statement, the words of
the batch are judged in Python against what was read, and what follows is written with one statement per table.
The fence comes from a counter that is raised in the transaction of the offer, so no crash can give it out twice.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import (
    Attempt,
    Claim,
    Finish,
    LeaseView,
    NewJob,
    Offer,
    RunnerRecord,
    Want,
)
from clawplane.domain.ports import Expired, FinishResult, HeartbeatResult, QueueDepth
from clawplane.store import lease_ends, runners
from clawplane.store.consequences import CONSEQUENCES
from clawplane.store.custody import attempt_of
from clawplane.store.database import Database, Transaction
from clawplane.store.leases import KIND_NAMES, KINDS, id_list, lease_of
from clawplane.store.ledger import Counts, promote_timers

_NONCE_BYTES = 8
_NONCE_SHIFT = 11  # 53 bits, which every JSON reader keeps whole


class _Wanted(NamedTuple):
    wants: tuple[Want, ...]
    now: int
    offer_ms: int


class _Confirmation(msgspec.Struct, gc=False):
    claim: Claim
    runner: RunnerId
    now: int


async def submit(tx: Transaction, items: Sequence[Sequence[NewJob]]) -> list[None]:
    """Queue jobs; each item is a sequence of which all or none are stored."""
    await enqueue(tx, [job for jobs in items for job in jobs])
    return [None] * len(items)


async def enqueue(tx: Transaction, jobs: Sequence[NewJob]) -> None:
    """Store jobs and make them ready."""
    await tx.many(
        "insert_job",
        [(j.id, KIND_NAMES[j.kind], j.subject, j.caps, j.ready_at, j.timeout_ms, j.max_attempts, j.spec) for j in jobs],
    )
    await tx.many("insert_ready", [(j.caps, j.ready_at, j.id, 0) for j in jobs])
    counts = Counts()
    for caps, number in Counter([job.caps for job in jobs]).items():
        counts.add(caps, ready=number)
    await counts.write(tx)


async def offer(tx: Transaction, items: Sequence[_Wanted]) -> list[list[Offer]]:
    """Offer the earliest ready jobs."""
    return [await _offer(tx, item) for item in items]


async def _offer(tx: Transaction, item: _Wanted) -> list[Offer]:
    await promote_timers(tx, item.now)
    by_caps: dict[str, list[Want]] = defaultdict(list)
    for want in item.wants:
        by_caps[want.caps].append(want)
    offers: list[Offer] = []
    counts = Counts()
    for caps, wants in by_caps.items():
        picked = await tx.fetch("pick_ready", {"caps": caps, "count": sum(max(0, want.count) for want in wants)})
        if not picked:
            continue
        seats = _seats(wants, len(picked))
        ready_at, job = picked[-1][:2]
        await tx.execute("delete_ready_upto", {"caps": caps, "ready_at": ready_at, "job": job})
        counts.add(caps, ready=-len(picked), offered=len(picked))
        ((last_fence,),) = await tx.fetch("next_value", {"name": "fence", "step": len(picked)})
        fences = range(last_fence - len(picked) + 1, last_fence + 1)
        offers += [
            Offer(
                job=job,
                kind=KINDS[kind],
                subject=subject,
                runner=runner,
                attempt=attempts + 1,
                fence=fence,
                nonce=nonce,
                spec=spec,
                timeout_ms=timeout_ms,
            )
            for (_, job, attempts, kind, subject, timeout_ms, spec), runner, fence, nonce in zip(
                picked, seats, fences, _nonces(len(picked)), strict=False
            )
        ]
    until = item.now + item.offer_ms
    await tx.many("insert_lease", [(o.job, o.fence, o.nonce, o.runner, o.attempt, item.now, until) for o in offers])
    await counts.write(tx)
    return offers


def _seats(wants: Sequence[Want], enough: int) -> list[RunnerId]:
    """Return the runners in the order in which they get jobs: in turn, while they want more, for `enough` jobs."""
    left = [(want.runner, want.count) for want in wants if want.count > 0]
    seats: list[RunnerId] = []
    while left and len(seats) < enough:
        seats += [runner for runner, _ in left]
        left = [(runner, count - 1) for runner, count in left if count > 1]
    return seats


def _nonces(count: int) -> list[int]:
    noise = os.urandom(count * _NONCE_BYTES)
    return [
        int.from_bytes(noise[at : at + _NONCE_BYTES], "big") >> _NONCE_SHIFT
        for at in range(0, len(noise), _NONCE_BYTES)
    ]


async def confirm(tx: Transaction, items: Sequence[_Confirmation]) -> list[bool]:
    """Turn offers into leases."""
    wanted = {"jobs": id_list(dict.fromkeys([item.claim.job for item in items]))}
    offers = {row[0]: row for row in await tx.fetch("offers_of_jobs", wanted)}
    begun: set[JobId] = set()
    by_times: dict[tuple[int, int], list[JobId]] = defaultdict(list)
    by_kind: dict[str, list[JobId]] = defaultdict(list)
    by_caps: dict[str, int] = defaultdict(int)
    answers: list[bool] = []
    for item in items:
        claim, now = item.claim, item.now
        accepted = False
        if claim.job in offers:
            job, fence, nonce, runner, offer_until, confirmed_at, cancel, kind, caps, timeout_ms = offers[claim.job]
            if fence == claim.fence and nonce == claim.nonce and runner == item.runner:
                accepted = confirmed_at is not None or job in begun
                if not accepted and cancel is None and now < offer_until:
                    accepted = True
                    begun.add(job)
                    by_times[now, now + timeout_ms].append(job)
                    by_kind[kind].append(job)
                    by_caps[caps] += 1
        answers.append(accepted)
    for (now, deadline_at), jobs in by_times.items():
        await tx.execute("confirm_leases", {"now": now, "deadline_at": deadline_at, "jobs": id_list(jobs)})
    counts = Counts()
    for caps, number in by_caps.items():
        counts.add(caps, offered=-number, leased=number)
    await counts.write(tx)
    for kind, jobs in by_kind.items():
        await CONSEQUENCES[kind].confirmed(tx, jobs, items[-1].now)
    return answers


class SqlQueue:
    """The one queue; see ports.Queue."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def submit(self, jobs: Sequence[NewJob]) -> None:
        """Queue `jobs`; all or none."""
        await self._database.write(submit, jobs)

    async def offer(self, wants: Sequence[Want], *, now: int, offer_ms: int) -> list[Offer]:
        """Take the earliest ready jobs for `wants` and offer each to its runner with a new fence."""
        return await self._database.write(offer, _Wanted(tuple(wants), now, offer_ms))

    async def confirm(self, claim: Claim, runner: RunnerId, *, now: int) -> bool:
        """Turn an offer into a lease; False when it is not this runner's, expired, or cancelled meanwhile."""
        return await self._database.write(confirm, _Confirmation(claim, runner, now))

    async def decline(self, claim: Claim, runner: RunnerId, *, now: int, delay_ms: int = 0) -> None:
        """Give an unconfirmed offer back without using up an attempt."""
        await self._database.write(lease_ends.decline, lease_ends.Declined(claim, runner, now, delay_ms))

    async def finish(self, finish: Finish, *, now: int) -> FinishResult:
        """End an attempt once."""
        return await self._database.write(lease_ends.finish, lease_ends.Finished(finish, now))

    async def heartbeat(self, runner: RunnerId, held: Sequence[tuple[JobId, int]], *, now: int) -> HeartbeatResult:
        """Note that a runner lives and holds these leases (job, fence)."""
        return await self._database.write(runners.heartbeat, runners.SignOfLife(runner, tuple(held), now))

    async def cancel(self, jobs: Sequence[JobId], reason: str) -> list[LeaseView]:
        """Mark leases for cancelling and return them; what was waiting or only offered ends at once."""
        item = lease_ends.Cancelled(tuple(jobs), reason, self._clock.now_ms())
        return await self._database.write(lease_ends.cancel, item)

    async def expire(self, *, now: int, silence_ms: int) -> Expired:
        """Take back offers whose time is over, leases of silent runners, leases past their deadline."""
        return await self._database.write(lease_ends.expire, lease_ends.Tick(now, silence_ms))

    async def next_expiry(self, *, silence_ms: int) -> int | None:
        """Return when `expire` has something to do at the earliest, or None."""

        async def view(tx: Transaction) -> int | None:
            times = [*await tx.fetch("next_expiry", {"silence": silence_ms}), *await tx.fetch("next_timer")]
            return min((at for (at,) in times if at is not None), default=None)

        return await self._database.read(view)

    async def leases(self, runner: RunnerId | None = None) -> list[LeaseView]:
        """Return the leases of one runner or of all."""

        async def view(tx: Transaction) -> list[LeaseView]:
            if runner is None:
                rows = await tx.fetch("all_leases")
            else:
                rows = await tx.fetch("leases_of_runner", {"runner": runner})
            return [lease_of(row).view() for row in rows]

        return await self._database.read(view)

    async def attempts(self, job: JobId) -> list[Attempt]:
        """Return a job's custody timeline, oldest first."""

        async def view(tx: Transaction) -> list[Attempt]:
            return [attempt_of(row) for row in await tx.fetch("attempts_of_job", {"job": job})]

        return await self._database.read(view)

    async def depth(self) -> QueueDepth:
        """Return the counts of waiting, offered and leased jobs by capability."""

        async def view(tx: Transaction) -> QueueDepth:
            rows = await tx.fetch("queue_depth")
            return QueueDepth(
                ready={caps: ready for caps, ready, _, _ in rows},
                offered={caps: offered for caps, _, offered, _ in rows},
                leased={caps: leased for caps, _, _, leased in rows},
            )

        return await self._database.read(view)

    async def highest_job(self) -> int:
        """Return the highest job id ever stored, 0 when none."""

        async def view(tx: Transaction) -> int:
            ((highest,),) = await tx.fetch("highest_job")
            return highest or 0

        return await self._database.read(view)

    async def upsert_runner(self, runner: RunnerRecord) -> None:
        """Note a runner's connection, slots and state."""
        await self._database.write(runners.upsert, runner)

    async def runners(self) -> list[RunnerRecord]:
        """Return every runner ever heard of, newest first."""

        async def view(tx: Transaction) -> list[RunnerRecord]:
            return [runners.record_of(row) for row in await tx.fetch("all_runners")]

        return await self._database.read(view)
