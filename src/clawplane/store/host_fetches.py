"""Hand results of host tasks out once, and let go of what is old.

A result that was fetched is invisible to the Task API from then on, and so is its task; both stay readable by `peek`
for the grace. What could not be delivered is put back, without a trace.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from clawplane.domain.host_ports import Retention, Swept
from clawplane.domain.host_tasks import Approval, StoredResult, TaskId, TaskStatus
from clawplane.domain.leases import JobKind
from clawplane.store.database import Row, Transaction, first
from clawplane.store.host_rows import RESULTS, StoredTask, TaskCounter, task_of_id, tasks_of_jobs
from clawplane.store.host_submits import next_of
from clawplane.store.host_trail import append_task_events
from clawplane.store.lease_ends import take_out
from clawplane.store.leases import leases_of
from clawplane.store.ledger import Ledger

_AT_ONCE = 500
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
    return [await _take(tx, *item) for item in items]


async def _take(tx: Transaction, task: TaskId, now: int) -> StoredResult | None:
    row = await first(tx.fetch("find_host_result", {"task": task}))
    if row is None or not await tx.execute("consume_host_result", {"now": now, "task": task}):
        return None
    stored = await task_of_id(tx, task)
    counter = TaskCounter()
    counter.move(RESULTS, None)
    if stored is not None:
        counter.move(stored.task.status.value, None)
        await tx.execute("set_host_consumed", {"consumed": 1, "id": task})
        details = {"exitCode": json.loads(row[1]).get("exitCode"), "reconciledBy": "task-result-fetch"}
        await append_task_events(tx, [stored.event("task.reconciled", stored.task.status, now, details)])
    await counter.write(tx)
    return result_of(row)


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
            await tx.execute("set_host_consumed", {"consumed": 0, "id": task})
            await tx.execute("undo_host_event", {"task": task, "type": "task.reconciled"})
        await counter.write(tx)
    return [None] * len(items)


def result_of(row: Row) -> StoredResult:
    """Return one result from its row."""
    task, body, _, created_at, consumed_at = row
    return StoredResult(task=TaskId(task), body=body, created_at=created_at, consumed_at=consumed_at)


async def sweep(tx: Transaction, items: Sequence[Sweep]) -> list[Swept]:
    """Remove what is older than it may be, some at a time."""
    return [await _sweep(tx, *item) for item in items]


async def _sweep(tx: Transaction, retention: Retention, now: int) -> Swept:
    results = await _sweep_results(tx, retention, now)
    expired = await _sweep_pending(tx, retention, now)
    sessions = await tx.fetch("old_agent_sessions", {"before": now - retention.session_ms, "limit": _AT_ONCE})
    await tx.many("delete_agent_session", sessions)
    await tx.execute("delete_old_agent_bindings", {"before": now - _BINDINGS_MS})
    return Swept(expired=tuple(expired), results=results, sessions=len(sessions))


async def _sweep_results(tx: Transaction, retention: Retention, now: int) -> int:
    bounds = {"unconsumed_before": now - retention.result_ms, "consumed_before": now - retention.grace_ms}
    rows = await tx.fetch("old_host_results", {**bounds, "limit": _AT_ONCE})
    counter = TaskCounter()
    for task, waits in rows:
        stored = await task_of_id(tx, task)
        if waits:
            counter.move(RESULTS, None)
        if stored is not None:
            if not stored.consumed:
                counter.move(stored.task.status.value, None)
            await _forget(tx, stored)
    await tx.many("delete_host_result", [(task,) for task, _ in rows])
    await counter.write(tx)
    return len(rows)


async def _sweep_pending(tx: Transaction, retention: Retention, now: int) -> list[TaskId]:
    before = now - retention.task_ms
    jobs = [job for (job,) in await tx.fetch("old_pending_host", {"before": before, "limit": _AT_ONCE})]
    found = await tasks_of_jobs(tx, jobs)
    offered = await leases_of(tx, jobs)
    old = [
        stored
        for job, stored in found.items()
        if job not in offered
        and stored.task.approval is not Approval.WAITING
        and (stored.task.not_before or 0) <= before
    ]
    ledger, counter = Ledger(), TaskCounter()
    await take_out(tx, ledger, [stored.task.job for stored in old])
    await ledger.write(tx)
    for stored in old:
        counter.move(TaskStatus.PENDING.value, None)
        details = {"reason": "retention", "kind": JobKind.HOST.value}
        await append_task_events(tx, [stored.event("task.expired", TaskStatus.PENDING, now, details)])
        if stored.task.session_key is not None:
            await next_of(tx, stored.task.session_key, stored.task.job, now)
        await _forget(tx, stored)
    await counter.write(tx)
    return [stored.task.id for stored in old]


async def _forget(tx: Transaction, stored: StoredTask) -> None:
    """Delete everything that is kept of a task but its trail."""
    job = {"job": stored.task.job}
    for name in ("delete_host_state", "delete_host_task", "delete_host_job", "delete_host_attempts"):
        await tx.execute(name, job)
    await tx.execute("delete_log_chunks", {"subject": stored.task.id})
    await tx.execute("delete_log_stream", {"subject": stored.task.id})
