"""Keep callbacks until they are delivered; see host_ports.Outbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clawplane.domain.host_ports import Parcel
from clawplane.domain.host_tasks import NewParcel, TaskEvent, TaskId
from clawplane.store.database import Database, Transaction
from clawplane.store.host_rows import tasks_of_ids
from clawplane.store.host_trail import append_task_events
from clawplane.store.parcels import put_parcels, row_of


class _Progress(NamedTuple):
    parcel: str
    sent: int
    attempts: int
    next_at: int


class _Settled(NamedTuple):
    parcel: str
    event: TaskEvent


class _Put(NamedTuple):
    event: TaskEvent
    parcels: tuple[NewParcel, ...]


async def put(tx: Transaction, items: Sequence[_Put]) -> list[None]:
    """Record events, with what is to be sent because of them."""
    found = await tasks_of_ids(tx, [item.event.task_id or "" for item in items])
    for event, parcels in items:
        stored = found.get(event.task_id or "")
        if stored is not None:
            rows = [row_of(each, stored.task.id, stored.callback_token, event.created_at) for each in parcels]
            await put_parcels(tx, rows)
    await append_task_events(tx, [item.event for item in items])
    return [None] * len(items)


async def progress(tx: Transaction, items: Sequence[_Progress]) -> list[None]:
    """Remember how far deliveries got."""
    await tx.many("progress_host_parcel", [(item.sent, item.attempts, item.next_at, item.parcel) for item in items])
    return [None] * len(items)


async def settle(tx: Transaction, items: Sequence[_Settled]) -> list[bool]:
    """Remove parcels, each with its one terminal record."""
    settled = [await tx.execute("delete_host_parcel", {"id": parcel}) > 0 for parcel, _ in items]
    await append_task_events(tx, [item.event for item, there in zip(items, settled, strict=True) if there])
    return settled


class SqlOutbox:
    """Callbacks that must still be delivered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, event: TaskEvent, parcels: Sequence[NewParcel]) -> None:
        """Record an event of a task, with what is to be sent because of it."""
        await self._database.write(put, _Put(event, tuple(parcels)))

    async def due(self, *, now: int, limit: int) -> list[Parcel]:
        """Return parcels whose time has come, oldest first."""
        ((earliest,),) = await self._database.glance("next_host_parcel")
        if earliest is None or earliest > now:  # as it is after every end of a task that owes nothing to anybody
            return []

        async def view(tx: Transaction) -> list[Parcel]:
            rows = await tx.fetch("due_host_parcels", {"now": now, "limit": limit})
            return [
                Parcel(
                    id=id_,
                    task=TaskId(task),
                    kind=kind,
                    destination=destination,
                    body=body,
                    token=token,
                    attempts=attempts,
                    sent=sent,
                    next_at=next_at,
                    created_at=created_at,
                )
                for id_, task, kind, destination, body, token, attempts, sent, next_at, created_at in rows
            ]

        return await self._database.read(view)

    async def progress(self, parcel: str, *, sent: int, attempts: int, next_at: int) -> None:
        """Remember how far a delivery got."""
        await self._database.write(progress, _Progress(parcel, sent, attempts, next_at))

    async def settle(self, parcel: str, event: TaskEvent) -> bool:
        """Remove a parcel with its one terminal event; False when it was settled before."""
        return await self._database.write(settle, _Settled(parcel, event))
