"""Put jobs into the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clawplane.domain.ids import JobId
from clawplane.domain.leases import NewJob
from clawplane.store.counts import Counts
from clawplane.store.database import Transaction
from clawplane.store.leases import KIND_NAMES


async def enqueue(tx: Transaction, jobs: Sequence[NewJob]) -> None:
    """Store jobs and make them ready."""
    await store_jobs(tx, jobs)
    await make_ready(tx, [(j.caps, j.ready_at, j.id, 0) for j in jobs])


async def store_jobs(tx: Transaction, jobs: Sequence[NewJob]) -> None:
    """Store jobs that are not in the queue yet."""
    await tx.many(
        "insert_job",
        [
            (
                j.id,
                KIND_NAMES[j.kind],
                j.subject,
                j.caps,
                j.ready_at,
                j.timeout_ms,
                j.max_attempts,
                j.silence_ms,
                j.spec,
            )
            for j in jobs
        ],
    )


async def make_ready(tx: Transaction, rows: Sequence[tuple[str, int, JobId, int]]) -> None:
    """Let stored jobs be taken: (caps, ready_at, job, attempts used up) each."""
    await tx.many("insert_ready", rows)
    counts = Counts()
    for caps, added in Counter([row[0] for row in rows]).items():
        counts.add(caps, ready=added)
    await counts.write(tx)
