"""Hand results of host tasks out once, and let go of what is old.

A result that was fetched is invisible to the Task API from then on, and so is its task; both stay readable by `peek`
for the grace. What could not be delivered is put back, without a trace.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.host_ports import Retention, Swept
from clawplane.domain.host_results import shown
from clawplane.domain.host_tasks import StoredResult, TaskEvent, TaskId, TaskStatus
from clawplane.domain.host_trail import event_of
from clawplane.domain.leases import JobKind
from clawplane.store.database import Row, Transaction
from clawplane.store.host_rows import RESULTS, StoredTask, TaskCounter, task_of_id, tasks_of_ids, tasks_of_jobs
from clawplane.store.host_submits import next_of
from clawplane.store.host_trail import append_task_events, undo_task_event
from clawplane.store.lease_ends import take_out
from clawplane.store.leases import id_list
from clawplane.store.ledger import Ledger

_AT_ONCE = 200
_UNFETCHED = {"reason": "retention", "kind": "result"}
_BINDINGS_MS = 30 * 86_400_000


class Take(NamedTuple):
    """A result to be consumed."""

    task: TaskId
    now: int


class Sweep(NamedTuple):
    """What may be how old, and when it is."""

    retention: Retention
    now: int


async def take(tx: Transaction, items: Sequence[Take]) -> list[StoredResult | None]:
    """Consume results; of two that ask for one, the first gets it."""
    wanted = json.dumps(list(dict.fromkeys(item.task for item in items)))
    rows = {row[0]: row for row in await tx.fetch("host_results_of_ids", {"tasks": wanted})}
    found = await tasks_of_ids(tx, list(rows))
    counter = TaskCounter()
    events: list[TaskEvent] = []
    taken: list[tuple[object, ...]] = []
    results: list[StoredResult | None] = []
    for task, now in items:
        row = rows.pop(task, None)
        if row is None:
            results.append(None)
            continue
        taken.append((task, now))
        counter.move(RESULTS, None)
        stored = found.get(task)
        if stored is not None:
            counter.move(stored.task.status.value, None)
            details = {"exitCode": shown(json.loads(row[4])), "reconciledBy": "task-result-fetch"}
            events.append(stored.event("task.reconciled", stored.task.status, now, details))
        results.append(msgspec.structs.replace(result_of(row), consumed_at=now))
    await tx.many("consume_host_result", taken)
    await append_task_events(tx, events)
    await counter.write(tx)
    return results


async def put_back(tx: Transaction, items: Sequence[TaskId]) -> list[None]:
    """Undo consumptions whose answers did not arrive."""
    for task in items:
        if not await tx.execute("unconsume_host_result", {"task": task}):
            continue
        stored = await task_of_id(tx, task)
        counter = TaskCounter()
        counter.move(None, RESULTS)
        if stored is not None:
            counter.move(None, stored.task.status.value)
            await undo_task_event(tx, task, "task.reconciled")
        await counter.write(tx)
    return [None] * len(items)


def result_of(row: Row) -> StoredResult:
    """Return one result from its row."""
    task, body, created_at, consumed_at, _ = row
    return StoredResult(task=TaskId(task), body=body, created_at=created_at, consumed_at=consumed_at)


async def sweep(tx: Transaction, items: Sequence[Sweep]) -> list[Swept]:
    """Remove what is older than it may be, some at a time."""
    return [await _sweep(tx, *item) for item in items]


async def _sweep(tx: Transaction, retention: Retention, now: int) -> Swept:
    unfetched = await _sweep_unfetched(tx, now - retention.result_ms, now)
    fetched = await _sweep_fetched(tx, now - retention.grace_ms)
    expired = await _sweep_pending(tx, now - retention.task_ms, now)
    sessions = await tx.fetch("old_agent_sessions", {"before": now - retention.session_ms, "limit": _AT_ONCE})
    await tx.many("delete_agent_session", sessions)
    await tx.execute("delete_old_agent_bindings", {"before": now - _BINDINGS_MS, "limit": _AT_ONCE})
    await tx.execute("delete_idle_host_counts")
    return Swept(expired=tuple(expired), results=unfetched + fetched, sessions=len(sessions))


async def _sweep_unfetched(tx: Transaction, before: int, now: int) -> int:
    """Remove results that nobody fetched in time, with a record of it."""
    tasks = [task for (task,) in await tx.fetch("old_host_results", {"before": before, "limit": _AT_ONCE})]
    if not tasks:
        return 0
    found = await tasks_of_ids(tx, tasks)
    counter = TaskCounter()
    events = []
    for task in tasks:
        counter.move(RESULTS, None)
        if (stored := found.get(task)) is None:
            events.append(event_of(None, "task.expired", at=now, details=_UNFETCHED, task_id=task))
        else:
            counter.move(stored.task.status.value, None)
            events.append(stored.event("task.expired", stored.task.status, now, _UNFETCHED))
    await append_task_events(tx, events)
    await _forget(tx, list(found.values()))
    await tx.execute("delete_host_results", {"tasks": json.dumps(tasks)})
    await counter.write(tx)
    return len(tasks)


async def _sweep_fetched(tx: Transaction, before: int) -> int:
    """Remove the copies of what was fetched, when their grace is over."""
    tasks = [task for (task,) in await tx.fetch("old_fetched_results", {"before": before, "limit": _AT_ONCE})]
    if not tasks:
        return 0
    await _forget(tx, list((await tasks_of_ids(tx, tasks)).values()))
    wanted = {"tasks": json.dumps(tasks)}
    await tx.execute("delete_host_results", wanted)
    await tx.execute("delete_host_fetched", wanted)
    return len(tasks)


async def _sweep_pending(tx: Transaction, before: int, now: int) -> list[TaskId]:
    """Remove tasks that waited too long; what runs, is offered or waits for a person's yes is left alone."""
    jobs = [job for (job,) in await tx.fetch("old_pending_host", {"before": before, "limit": _AT_ONCE})]
    if not jobs:
        return []
    old = list((await tasks_of_jobs(tx, jobs)).values())
    ledger, counter = Ledger(), TaskCounter()
    await take_out(tx, ledger, jobs)
    await ledger.write(tx)
    details = {"reason": "retention", "kind": JobKind.HOST.value}
    await append_task_events(tx, [stored.event("task.expired", TaskStatus.PENDING, now, details) for stored in old])
    # those behind go first, so that the end of a head lets nobody in who is old himself
    await tx.execute("delete_behind_jobs", {"jobs": id_list(jobs)})
    for stored in old:
        counter.move(TaskStatus.PENDING.value, None)
        if stored.task.session_key is not None:
            await next_of(tx, stored.task.session_key, stored.task.job, now)
    await _forget(tx, old)
    await counter.write(tx)
    return [stored.task.id for stored in old]


async def _forget(tx: Transaction, old: Sequence[StoredTask]) -> None:
    """Delete everything that is kept of tasks but their trail and their results."""
    if not old:
        return
    jobs = {"jobs": id_list([stored.task.job for stored in old])}
    for name in ("delete_host_states", "delete_host_tasks", "delete_host_jobs", "delete_host_attempts"):
        await tx.execute(name, jobs)
    tasks = {"tasks": json.dumps([stored.task.id for stored in old])}
    for name in ("delete_host_chunks", "delete_host_logs"):
        await tx.execute(name, tasks)
