"""Claim host tasks for polls, undo claims that could not be delivered, and take back what is lost.

A poll of the Task API has no second word, so its claim is offer and confirmation in one transaction. A claim whose
answer did not reach the poller is undone without a trace: at its old place, no attempt used, no `task.started`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from clawplane.domain.host_ports import Claimed, Poll, Stock
from clawplane.domain.host_tasks import HostTask, OnLoss, TaskId, TaskStatus
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import AttemptEnd, JobKind, Outcome, Want
from clawplane.store.counts import Counts
from clawplane.store.database import Transaction, first
from clawplane.store.endings import Ending
from clawplane.store.host_ends import Start, start
from clawplane.store.host_rows import TaskCounter, task_of_id, tasks_of_jobs
from clawplane.store.host_submits import NEVER_MS
from clawplane.store.host_trail import append_task_events, undo_task_event
from clawplane.store.leases import Lease, id_list, lease_of, leases_of
from clawplane.store.ledger import Ledger, promote_timers
from clawplane.store.picking import Pick, number, pick


class Polls(NamedTuple):
    """Parked polls that want one task each."""

    polls: tuple[Poll, ...]
    now: int


class Unclaim(NamedTuple):
    """A claim whose answer could not be delivered."""

    task: TaskId
    fence: int
    now: int


class Lost(NamedTuple):
    """Leases (job, fence) that nobody holds any more; None: all those of polls without heartbeats."""

    jobs: tuple[tuple[JobId, int], ...] | None
    now: int


class Inventory(NamedTuple):
    """All that a polling runner has, as (task, fence); see host_ports.HostTasks.take_stock."""

    runner: RunnerId
    number: int
    held: frozenset[tuple[TaskId, int]]
    now: int


async def claim(tx: Transaction, items: Sequence[Polls]) -> list[list[Claimed | None]]:
    """Give polls their tasks; what arrived together is one claim."""
    polls = [poll for item in items for poll in item.polls]
    claimed = iter(await _claim(tx, polls, max(item.now for item in items)))
    return [[next(claimed) for _ in item.polls] for item in items]


async def _claim(tx: Transaction, polls: Sequence[Poll], now: int) -> list[Claimed | None]:
    await promote_timers(tx, now)
    # each poll is a want of its own, told apart by its place: one runner may have several polls parked
    wants = [Want(runner=poll.runner, caps="host", count=1, reach=poll.reach) for poll in polls]
    places: dict[JobId, int] = {}
    picks = await pick(tx, wants, places)
    if not picks:
        return [None] * len(polls)
    offers = await number(tx, picks)
    rows = []
    for offer, picked in zip(offers, picks, strict=True):
        poll = polls[places[picked.job]]
        silence = max(picked.silence_ms or 0, NEVER_MS if poll.silence_ms is None else poll.silence_ms)
        until = now + offer.timeout_ms
        rows.append((offer.job, offer.fence, offer.nonce, offer.runner, offer.attempt, now, until, silence))
    await tx.many("insert_direct_lease", rows)
    await _count(tx, picks)
    starts = {o.job: Start(o.attempt, o.runner, polls[places[o.job]].server_delivers) for o in offers}
    running = await start(tx, starts, now=now)
    claimed: list[Claimed | None] = [None] * len(polls)
    for offer in offers:
        stored = running[offer.job]
        claimed[places[offer.job]] = Claimed(task=stored.task, fence=offer.fence, callback_token=stored.callback_token)
    return claimed


async def _count(tx: Transaction, picks: Sequence[Pick]) -> None:
    counts = Counts()
    for caps, taken in Counter([picked.caps for picked in picks]).items():
        counts.add(caps, ready=-taken, leased=taken)
    await counts.write(tx)


async def unclaim(tx: Transaction, items: Sequence[Unclaim]) -> list[bool]:
    """Undo claims."""
    return [await _unclaim(tx, *item) for item in items]


async def _unclaim(tx: Transaction, task: TaskId, fence: int, now: int) -> bool:
    stored = await task_of_id(tx, task)
    lease = None if stored is None else (await leases_of(tx, [stored.task.job])).get(stored.task.job)
    if stored is None or lease is None or lease.fence != fence:
        return False
    await tx.many("insert_attempt", [(now, AttemptEnd.DECLINED.value, None, lease.job)])
    await tx.execute("delete_leases", {"jobs": id_list([lease.job])})
    if lease.cancel is not None:  # cancelled between the claim and this word: it ends instead
        ledger = Ledger()
        ledger.counts.add(lease.caps, leased=-1)
        outcome = Outcome(succeeded=False, reason="aborted", message=lease.cancel)
        ledger.end(lease.kind, Ending(lease.job, outcome, aborted=True, at=now))
        await ledger.write(tx)
        return True
    await tx.many("insert_ready", [(lease.caps, lease.ready_at, lease.job, lease.attempt - 1)])
    counts = Counts()
    counts.add(lease.caps, ready=1, leased=-1)
    await counts.write(tx)
    await tx.execute("unstart_host", {"attempt": lease.attempt - 1, "aging_since": None, "job": lease.job})
    counter = TaskCounter()
    counter.move(TaskStatus.RUNNING.value, TaskStatus.PENDING.value)
    await counter.write(tx)
    await undo_task_event(tx, task, "task.started")
    return True


async def lose(tx: Transaction, items: Sequence[Lost]) -> list[list[tuple[HostTask, OnLoss]]]:
    """Take back leases, each by its task's policy."""
    return [await _lose(tx, *item) for item in items]


async def _lose(tx: Transaction, jobs: Sequence[tuple[JobId, int]] | None, now: int) -> list[tuple[HostTask, OnLoss]]:
    if jobs is None:
        wanted = [job for (job,) in await tx.fetch("poller_leases", {"never": NEVER_MS})]
    else:
        wanted = [job for job, _ in jobs]
    leases = await leases_of(tx, wanted)
    fences = {} if jobs is None else dict(jobs)
    lost = [
        lease
        for lease in leases.values()
        if lease.kind == JobKind.HOST
        and lease.confirmed_at is not None
        and fences.get(lease.job, lease.fence) == lease.fence
    ]
    found = await tasks_of_jobs(tx, [lease.job for lease in lost])
    ledger = Ledger()
    held = []
    for lease in lost:
        stored = found[lease.job]
        if stored.task.on_loss is OnLoss.HOLD and lease.cancel is None:
            last = await first(tx.fetch("last_custody_of_task", {"task": stored.task.id}))
            if last != ("task.recovery-preserved",):  # said once for each start
                held.append(stored)
            await tx.execute("make_lease_patient", {"silence": NEVER_MS, "job": lease.job})
        else:
            _take_back(ledger, lease, stored.task.on_loss, now)
    await ledger.write(tx)
    reason = {"reason": "the task was running when its runner was lost; it waits for a late report"}
    await append_task_events(
        tx, [stored.event("task.recovery-preserved", TaskStatus.RUNNING, now, reason) for stored in held]
    )
    return [(found[lease.job].task, found[lease.job].task.on_loss) for lease in lost]


async def take_stock(tx: Transaction, items: Sequence[Inventory]) -> list[Stock]:
    """Take back what runners do not have that were given it."""
    return [await _take_stock(tx, item) for item in items]


async def _take_stock(tx: Transaction, item: Inventory) -> Stock:
    row = await first(tx.fetch("stock_of_runner", {"runner": item.runner}))
    if row is not None and row[0] >= item.number:
        return Stock(taken=False, number=row[0])
    await tx.execute("set_stock", {"runner": item.runner, "number": item.number})
    given = [lease_of(found) for found in await tx.fetch("leases_of_runner", {"runner": item.runner})]
    missing = [(each.job, each.fence) for each in given if (TaskId(each.subject), each.fence) not in item.held]
    lost = await _lose(tx, missing, item.now) if missing else []
    return Stock(taken=True, number=item.number, lost=tuple(task.id for task, _ in lost))


def _take_back(ledger: Ledger, lease: Lease, on_loss: OnLoss, now: int) -> None:
    ledger.release(lease, AttemptEnd.RUNNER_LOST.value, now)
    if on_loss is OnLoss.REQUEUE and lease.cancel is None:
        ledger.requeue(lease)
        return
    message = lease.cancel or "The runner was lost while the task ran, and its policy is to fail then."
    outcome = Outcome(succeeded=False, reason="lost", message=message)
    ledger.end(lease.kind, Ending(lease.job, outcome, aborted=lease.cancel is not None, at=now))
