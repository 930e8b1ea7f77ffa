"""Host tasks as the store sees them inside a transaction."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from clawplane.domain.host_tasks import (
    Approval,
    HostTask,
    OnLoss,
    TaskEvent,
    TaskId,
    TaskReport,
    TaskStatus,
    TaskType,
)
from clawplane.domain.host_trail import event_of
from clawplane.domain.ids import JobId
from clawplane.store.database import Row, Transaction, first
from clawplane.store.host_blobs import unpack_asked
from clawplane.store.leases import id_list

RESULTS = "results"
"""The counter of results that wait to be fetched; the others are named like the states."""


class StoredTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task, and what only the store and the claim need of it."""

    task: HostTask
    callback_token: bytes | None
    timeout_ms: int
    deliver_to: str | None
    server_delivers: bool

    def event(self, type_: str, status: TaskStatus, at: int, details: Any = None) -> TaskEvent:
        """Return a record of the server's about this task."""
        return event_of(self.task, type_, at=at, details=details, status=status)


def stored_of(row: Row) -> StoredTask:
    """Return one task from its row."""
    (job, id_, owner, type_, created_at, session_id, session_key, priority, not_before, on_loss) = row[:10]
    (channel, url, asked, token, timeout_ms, deliver_to) = row[10:16]
    (status, approval, started_at, completed_at, attempt, runner, reason, server_delivers) = row[16:]
    about = unpack_asked(asked)
    task = HostTask(
        id=TaskId(id_),
        job=JobId(job),
        owner=owner,
        type=TaskType(type_),
        status=TaskStatus(status),
        work=about.work,
        created_at=created_at,
        started_at=started_at,
        completed_at=completed_at,
        session_id=session_id,
        session_key=session_key,
        priority=priority,
        not_before=not_before,
        on_loss=OnLoss(on_loss),
        approval=Approval(approval),
        target=about.target,
        cwd=about.cwd,
        env=about.env,
        labels=about.labels,
        callback_channel=channel,
        callback_url=url,
        attempt=attempt,
        runner=runner,
        answer_at=about.answer_at,
        reason=reason,
    )
    return StoredTask(
        task=task,
        callback_token=token,
        timeout_ms=timeout_ms,
        deliver_to=deliver_to,
        server_delivers=bool(server_delivers),
    )


async def task_of_id(tx: Transaction, task: str) -> StoredTask | None:
    """Return one task by its id."""
    row = await first(tx.fetch("host_task_by_id", {"id": task}))
    return None if row is None else stored_of(row)


async def tasks_of_ids(tx: Transaction, ids: Iterable[str]) -> dict[str, StoredTask]:
    """Return the tasks with these ids, by id."""
    rows = await tx.fetch("host_tasks_of_ids", {"tasks": json.dumps(list(dict.fromkeys(ids)))})
    return {row[1]: stored_of(row) for row in rows}


async def tasks_of_jobs(tx: Transaction, jobs: Iterable[JobId]) -> dict[JobId, StoredTask]:
    """Return the tasks of these jobs, by job."""
    rows = await tx.fetch("host_tasks_of_jobs", {"jobs": id_list(jobs)})
    return {row[0]: stored_of(row) for row in rows}


class TaskCounter:
    """Changes to the numbers of tasks by state, and of results that wait."""

    def __init__(self) -> None:
        self._changes: Counter[str] = Counter()

    def move(self, of: str | None, to: str | None) -> None:
        """Count one task less in a state and one more in another; None is nowhere."""
        if of is not None:
            self._changes[of] -= 1
        if to is not None:
            self._changes[to] += 1

    async def write(self, tx: Transaction) -> None:
        """Change the counters."""
        await tx.many("count_host", [(what, number) for what, number in self._changes.items() if number])


def digest_of_report(report: TaskReport) -> bytes:
    """Return what tells a repeated report from another one."""
    rest = [report.exit_code, report.error, report.duration, report.metadata]
    digest = hashlib.sha256(json.dumps(rest, default=str).encode())
    for text in (report.stdout, report.stderr):
        digest.update(f"{len(text)}:".encode())
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()[:16]
