"""Keep the event log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from clawplane.domain.events import Event
from clawplane.store.database import Database, Transaction

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder(dict[str, Any]).decode


class NewEvent(NamedTuple):
    """An entry to be; `at` in milliseconds."""

    at: int
    kind: str
    subject: str
    data: dict[str, Any]


async def append_events(tx: Transaction, events: Sequence[NewEvent]) -> None:
    """Append entries in order."""
    await tx.many("insert_event", [(e.at, e.kind, e.subject, _to_json(e.data).decode()) for e in events])


class SqlEvents:
    """The append-only event log; see ports.Events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, seq: int, *, subject: str | None, limit: int) -> list[Event]:
        """Return events behind `seq`, oldest first."""

        async def view(tx: Transaction) -> list[Event]:
            if subject is None:
                rows = await tx.fetch("events_after", {"seq": seq, "limit": limit})
            else:
                rows = await tx.fetch("events_of_subject", {"seq": seq, "subject": subject, "limit": limit})
            return [Event(seq=n, at=at, kind=kind, subject=of, data=_from_json(data)) for n, at, kind, of, data in rows]

        return await self._database.read(view)
