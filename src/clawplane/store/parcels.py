"""Put messages into the outbox, inside the transaction that gives rise to them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from clawplane.domain.host_tasks import NewParcel
from clawplane.store.database import Transaction
from clawplane.store.host_blobs import plain

ParcelRow = tuple[object, ...]


def row_of(parcel: NewParcel, task: str, token: bytes | None, at: int) -> ParcelRow:
    """Return a parcel as a row of the outbox, due at once; `token` is the task's own, sealed, and for chats only."""
    sealed = token if parcel.kind.startswith("chat") else None
    return (str(uuid.uuid4()), task, parcel.kind, plain(parcel.destination), parcel.body, sealed, at, at)


async def put_parcels(tx: Transaction, rows: Sequence[ParcelRow]) -> None:
    """Put rows in."""
    await tx.many("insert_host_parcel", rows)
