"""Keep the trail of host tasks: what happened to each, in order, bounded by age and number."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from clawplane.domain.host_ports import Retention
from clawplane.domain.host_results import json_of
from clawplane.domain.host_tasks import TaskEvent
from clawplane.store.database import Database, Row, Transaction
from clawplane.store.host_blobs import plain, plain_or_none

_DAY_MS = 86_400_000


class _Trim(NamedTuple):
    cutoff: int
    keep: int


async def append_task_events(tx: Transaction, events: Sequence[TaskEvent]) -> None:
    """Append records in order; those without an id get one."""
    await tx.many("insert_host_event", [_values(event) for event in events])


def _values(event: TaskEvent) -> tuple[object, ...]:
    # lone surrogates are legal JSON and no UTF-8: details are kept with ASCII escapes
    return (
        event.id or str(uuid.uuid4()),
        plain(event.type),
        event.created_at,
        plain_or_none(event.task_id),
        plain_or_none(event.task_type),
        plain_or_none(event.task_status),
        plain_or_none(event.session_id),
        plain(event.origin),
        plain(event.dispatch_mode),
        plain(event.response_mode),
        plain_or_none(event.entrypoint),
        None if event.details is None else json_of(event.details),
        event.source,
    )


async def append(tx: Transaction, items: Sequence[TaskEvent]) -> list[TaskEvent]:
    """Append records that come from outside a task's own steps."""
    stored = []
    for item in items:
        await append_task_events(tx, [item])
        ((*row,),) = await tx.fetch("last_host_event")
        stored.append(_event(tuple(row)))
    return stored


async def trim(tx: Transaction, items: Sequence[_Trim]) -> list[dict[str, int]]:
    """Remove what is too old or too many."""
    results = []
    for cutoff, keep in items:
        expired = await tx.execute("trim_old_host_events", {"cutoff": cutoff})
        overflow = await tx.execute("trim_many_host_events", {"keep": keep})
        ((count, _, _),) = await tx.fetch("host_event_stats")
        results.append({"cutoff": cutoff, "deletedExpired": expired, "deletedOverflow": overflow, "count": count})
    return results


class SqlTaskEvents:
    """The trail of host tasks; see host_ports.TaskEvents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, event: TaskEvent) -> TaskEvent:
        """Append one record and return it as stored."""
        return await self._database.write(append, event)

    async def page(self, *, task: str, type_: str, limit: int, since: int | None) -> list[TaskEvent]:
        """Return records, newest first; with `since` those behind that sequence, oldest first."""
        wanted = {"task": plain(task), "type": plain(type_), "limit": limit, "since": since}
        name = "host_events_of_task" if task else "host_events_of_type" if type_ else "host_events"
        if since is not None:
            name += "_since"

        async def view(tx: Transaction) -> list[TaskEvent]:
            return [_event(row) for row in await tx.fetch(name, wanted)]

        return await self._database.read(view)

    async def stats(self) -> dict[str, Any]:
        """Return what `/events/stats` shows, without path and retention."""

        async def view(tx: Transaction) -> dict[str, Any]:
            ((count, oldest, newest),) = await tx.fetch("host_event_stats")
            return {
                "count": count,
                "oldestCreatedAt": oldest,
                "newestCreatedAt": newest,
                "byType": [{"type": name, "count": n} for name, n in await tx.fetch("host_events_by_type")],
                "byStatus": [{"taskStatus": name, "count": n} for name, n in await tx.fetch("host_events_by_status")],
            }

        return await self._database.read(view)

    async def trim(self, retention: Retention, *, now: int) -> dict[str, int]:
        """Remove what is too old or too many."""
        return await self._database.write(trim, _Trim(now - retention.event_days * _DAY_MS, retention.max_events))

    async def vacuum(self) -> None:
        """Give free pages back to the file system."""
        await self._database.compact()


def _event(row: Row) -> TaskEvent:
    (seq, id_, type_, created_at, task, task_type, status, session_id) = row[:8]
    (origin, dispatch_mode, response_mode, entrypoint, details, source) = row[8:]
    return TaskEvent(
        seq=seq,
        id=id_,
        type=type_,
        created_at=created_at,
        task_id=task,
        task_type=task_type,
        task_status=status,
        session_id=session_id,
        origin=origin,
        dispatch_mode=dispatch_mode,
        response_mode=response_mode,
        entrypoint=entrypoint,
        details=None if details is None else json.loads(details),
        source=source,
    )
