"""Collect what a batch of ends does to the queue, then write it at once.

Whatever ends an attempt (a finish, a decline, time, a cancel) is put here lease by lease; `write` then changes the
tables with one statement each, and passes the consequences on to what the jobs are for. A job leaves a lease in one of
three ways: it goes back to the queue at its old place, it goes back after a delay, or it has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from clawplane.domain.ids import JobId
from clawplane.domain.leases import JobKind, Outcome
from clawplane.domain.runs import EndedRun
from clawplane.store.consequences import CONSEQUENCES
from clawplane.store.counts import Counts
from clawplane.store.database import Transaction
from clawplane.store.endings import Ending, Retry
from clawplane.store.leases import Held, id_list

_encode_outcome = msgspec.msgpack.Encoder().encode


class Ledger:
    """The ends of one batch; `how` an attempt ended is the value of an AttemptEnd."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._released: list[JobId] = []
        self._attempts: list[tuple[object, ...]] = []
        self._ready: list[tuple[object, ...]] = []
        self._timers: list[tuple[object, ...]] = []
        self._retries: dict[str, list[Retry]] = defaultdict(list)
        self._endings: dict[str, list[Ending]] = defaultdict(list)
        self._at = 0

    def release(self, lease: Held, how: str, now: int, outcome: Outcome | None = None) -> None:
        """End the lease's attempt; what becomes of the job is said by `requeue` or `end`."""
        self._released.append(lease.job)
        self._at = now
        if outcome is not None and outcome.result and lease.kind == JobKind.HOST:
            outcome = msgspec.structs.replace(outcome, result=b"")  # what a task printed is kept once, as its result
        if lease.confirmed_at is None:
            self.counts.add(lease.caps, offered=-1)
        else:
            self.counts.add(lease.caps, leased=-1)
        self._attempts.append((now, how, None if outcome is None else _encode_outcome(outcome), lease.job))

    def requeue(self, lease: Held, *, due_at: int | None = None, cpu_ms: int = 0) -> None:
        """Put a job just released back at its old place, or there at `due_at`; a mere offer used no attempt."""
        used = lease.attempt if lease.confirmed_at is not None else lease.attempt - 1
        self.counts.add(lease.caps, ready=1)
        if due_at is None:
            self._ready.append((lease.caps, lease.ready_at, lease.job, used))
        else:
            self._timers.append((due_at, lease.job, used))
        if lease.confirmed_at is not None:
            self._retries[lease.kind].append(Retry(lease.job, cpu_ms, self._at))

    def end(self, kind: str, ending: Ending) -> None:
        """Let the job end for good."""
        self._endings[kind].append(ending)

    async def write(self, tx: Transaction) -> dict[JobId, EndedRun]:
        """Write everything down; return the runs that ended, each under the job that ended it."""
        if self._released:
            await tx.many("insert_attempt", self._attempts)  # from the leases, so before these go
            await tx.execute("delete_leases", {"jobs": id_list(self._released)})
        await tx.many("insert_ready", self._ready)
        await tx.many("insert_timer", self._timers)
        await self.counts.write(tx)
        for kind, retries in self._retries.items():
            await CONSEQUENCES[kind].retried(tx, retries)
        ended: dict[JobId, EndedRun] = {}
        for kind, endings in self._endings.items():
            ended |= await CONSEQUENCES[kind].ended(tx, endings)
        return ended


async def promote_timers(tx: Transaction, now: int) -> None:
    """Let delayed jobs whose time has come be ready."""
    due: Sequence[tuple[int, ...]] = await tx.fetch("due_timers", {"now": now})
    if due:
        await tx.execute("delete_due_timers", {"now": now})
        await tx.many("insert_ready", [(caps, ready_at, job, attempts) for job, attempts, caps, ready_at, _ in due])
