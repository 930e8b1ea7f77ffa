"""Runners: what they say of themselves, and when they were last heard of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import RunnerRecord
from clawplane.domain.ports import HeartbeatResult
from clawplane.store.database import Row, Transaction
from clawplane.store.leases import leases_of

_to_json = msgspec.json.Encoder(order="deterministic").encode
_capabilities = msgspec.json.Decoder(tuple[str, ...]).decode
_labels = msgspec.json.Decoder(dict[str, str]).decode
_slots = msgspec.json.Decoder(dict[str, int]).decode


class SignOfLife(NamedTuple):
    """A heartbeat: the leases the runner holds as (job, fence)."""

    runner: RunnerId
    held: tuple[tuple[JobId, int], ...]
    now: int


async def heartbeat(tx: Transaction, items: Sequence[SignOfLife]) -> list[HeartbeatResult]:
    """Note signs of life; answer with the leases that are lost and those to be cancelled."""
    await tx.many("see_runner", [(item.runner, item.now) for item in items])
    leases = await leases_of(tx, [job for item in items for job, _ in item.held])
    results = []
    for item in items:
        lost: list[tuple[JobId, int]] = []
        cancels: list[tuple[JobId, int, str]] = []
        for job, fence in item.held:
            lease = leases.get(job)
            if lease is None or lease.fence != fence or lease.runner != item.runner:
                lost.append((job, fence))
            elif lease.cancel is not None:
                cancels.append((job, fence, lease.cancel))
        results.append(HeartbeatResult(lost=tuple(lost), cancels=tuple(cancels)))
    return results


async def upsert(tx: Transaction, items: Sequence[RunnerRecord]) -> list[None]:
    """Store what runners say of themselves; an older time never makes a runner look silent."""
    await tx.many("upsert_runner", [_values(runner) for runner in items])
    await tx.many("see_runner_at_least", [(runner.id, runner.last_seen) for runner in items])
    return [None] * len(items)


def _values(runner: RunnerRecord) -> tuple[object, ...]:
    return (
        runner.id,
        runner.name,
        runner.version,
        _to_json(runner.capabilities).decode(),
        _to_json(runner.labels).decode(),
        _to_json(runner.slots).decode(),
        int(runner.connected),
        int(runner.draining),
    )


def record_of(row: Row) -> RunnerRecord:
    """Return a runner from its row."""
    id_, name, version, capabilities, labels, slots, connected, last_seen, draining = row
    return RunnerRecord(
        id=RunnerId(id_),
        name=name,
        version=version,
        capabilities=_capabilities(capabilities),
        labels=_labels(labels),
        slots=_slots(slots),
        connected=bool(connected),
        last_seen=last_seen,
        draining=bool(draining),
    )
