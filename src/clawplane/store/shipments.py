"""Store what runners ship of their jobs: each batch once, and only from the holder of the lease."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from clawplane.domain.batches import Batch
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.ids import JobId
from clawplane.domain.ports import AppendResult
from clawplane.domain.runs import HeaderItem
from clawplane.store.database import Transaction
from clawplane.store.leases import id_list
from clawplane.store.logs import LogWriter
from clawplane.store.rows import RowWriter

_to_json = msgspec.json.Encoder().encode


class _Shipping(msgspec.Struct, gc=False):
    """How far a lease's batches are stored, and where they go; a build has no run."""

    job: JobId
    fence: int
    stored: int
    subject: str
    run: int | None
    last_ordinal: int | None


async def append(tx: Transaction, items: Sequence[Batch]) -> list[AppendResult | Exception]:
    """Store batches that are next in their attempts; acknowledge what is stored; refuse gaps and strangers."""
    jobs = id_list(dict.fromkeys(batch.job for batch in items))
    places = {row[0]: _Shipping(*row) for row in await tx.fetch("shipping_of_jobs", {"jobs": jobs})}
    rows, logs = RowWriter(), LogWriter()
    headers: dict[int, tuple[HeaderItem, ...]] = {}
    advanced: dict[JobId, int] = {}
    results: list[AppendResult | Exception] = []
    for batch in items:
        place = places.get(batch.job)
        if place is None or place.fence != batch.fence:
            results.append(AppendResult(stored_up_to=0, stale=True))
            continue
        if batch.seq == place.stored + 1:
            if place.run is None and (batch.rows or batch.header is not None):
                results.append(InvalidArgument(f"Job {batch.job} is no subtask and has no rows or header."))
                continue
            place.stored = advanced[batch.job] = batch.seq
            logs.add(place.subject, str(batch.job), batch.logs)
            if place.run is not None:
                rows.add(place.run, place.last_ordinal or 0, batch.job, batch.rows)
                if batch.header is not None:
                    headers[place.run] = batch.header
        results.append(AppendResult(stored_up_to=place.stored))
    await tx.many("advance_batches", [(seq, job) for job, seq in advanced.items()])
    await rows.write(tx)
    await logs.write(tx)
    await tx.many("set_header", [(_to_json(header).decode(), run) for run, header in headers.items()])
    return results


def weight_of(batch: Batch) -> int:
    """Return about how many bytes a batch takes in memory."""
    return sum(len(row.body) for row in batch.rows) + sum(len(line.content) for line in batch.logs)
