"""Keep the trail of host tasks: what happened to each, in order, bounded by age and number."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clawplane.domain.host_ports import Retention
from clawplane.domain.host_results import json_of
from clawplane.domain.host_tasks import TaskEvent
from clawplane.store.database import Database, Row, Transaction
from clawplane.store.host_blobs import plain, plain_or_none

TRIM_STEP = 2_000
"""Records that one commit removes at the most: the writer is held for about ten milliseconds."""
_DAY_MS = 86_400_000
_NO_STATUS = "unknown"
_RARE = 10_000
"""Records of one type that may be looked through for those of one task."""
_MOST_NAMES = 1_000
"""Types and states that are told with their numbers; runners may make up as many as they like."""


class Trim(NamedTuple):
    """Let go of what was made before `cutoff`, and of all but the newest `keep`."""

    cutoff: int
    keep: int


class Trimmed(NamedTuple):
    """What one step removed, and how many records are left."""

    expired: int
    overflow: int
    left: int


async def append_task_events(tx: Transaction, events: Sequence[TaskEvent]) -> None:
    """Append records in order; those without an id get one."""
    rows = [_values(event) for event in events]
    await tx.many("insert_host_event", rows)
    await _count(tx, Counter((row[1], _NO_STATUS if row[5] is None else row[5]) for row in rows))


async def undo_task_event(tx: Transaction, task: str, type_: str) -> None:
    """Remove the last record of a type that the server made of a task."""
    gone = await tx.fetch("undo_host_event", {"task": task, "type": type_})
    await _count(tx, dict.fromkeys(gone, -1))


async def _count(tx: Transaction, numbers: Mapping[tuple[str, str], int]) -> None:
    await tx.many("count_host_events", [(*what, number) for what, number in numbers.items()])
    await tx.many("delete_idle_host_event_count", [what for what, number in numbers.items() if number < 0])


def _values(event: TaskEvent) -> tuple[Any, ...]:
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


async def trim(tx: Transaction, items: Sequence[Trim]) -> list[Trimmed]:
    """Remove some of what is too old or too many, oldest first."""
    return [await _trim(tx, item) for item in items]


async def _trim(tx: Transaction, item: Trim) -> Trimmed:
    ((count, oldest, _),) = await tx.fetch("host_event_stats")
    if count <= item.keep and (oldest is None or oldest >= item.cutoff):
        return Trimmed(0, 0, count)
    rows = await tx.fetch("oldest_host_events", {"limit": TRIM_STEP})
    expired = next((place for place, row in enumerate(rows) if row[1] >= item.cutoff), len(rows))
    overflow = min(len(rows) - expired, max(0, count - expired - item.keep))
    gone = rows[: expired + overflow]
    if gone:
        await tx.execute("delete_host_events", {"seq": gone[-1][0]})
        numbers = Counter((type_, status) for _, _, type_, status in gone)
        await _count(tx, {what: -number for what, number in numbers.items()})
    return Trimmed(expired, overflow, count - len(gone))


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

        async def view(tx: Transaction) -> list[TaskEvent]:
            name = "host_events_of_task" if task else "host_events_of_type" if type_ else "host_events"
            if task and type_:  # of a task with very many records those of a rare type are not sought among them all
                ((number,),) = await tx.fetch("number_of_host_events", {"type": wanted["type"]})
                name = "host_events_of_rare_type" if number <= _RARE else name
            if since is not None:
                name += "_since"
            return [_event(row) for row in await tx.fetch(name, wanted)]

        return await self._database.read(view)

    async def newest(self) -> int:
        """Return the place of the newest record, 0 when there is none."""

        async def view(tx: Transaction) -> int:
            ((newest,),) = await tx.fetch("newest_host_event")
            return newest or 0

        return await self._database.read(view)

    async def stats(self) -> dict[str, Any]:
        """Return what `/events/stats` shows, without path and retention."""

        async def view(tx: Transaction) -> dict[str, Any]:
            ((count, oldest, newest),) = await tx.fetch("host_event_stats")
            most = {"limit": _MOST_NAMES}
            return {
                "count": count,
                "oldestCreatedAt": oldest,
                "newestCreatedAt": newest,
                "byType": [{"type": name, "count": n} for name, n in await tx.fetch("host_events_by_type", most)],
                "byStatus": [
                    {"taskStatus": name, "count": n} for name, n in await tx.fetch("host_events_by_status", most)
                ],
            }

        return await self._database.read(view)

    async def trim(self, retention: Retention, *, now: int) -> dict[str, int]:
        """Remove what is too old or too many, some per commit, so that others write in between."""
        bounds = Trim(now - retention.event_days * _DAY_MS, retention.max_events)
        expired = overflow = 0
        while True:
            step = await self._database.write(trim, bounds)
            expired += step.expired
            overflow += step.overflow
            if step.expired + step.overflow < TRIM_STEP:
                break
        return {
            "cutoff": bounds.cutoff,
            "deletedExpired": expired,
            "deletedOverflow": overflow,
            "count": step.left,
        }

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
