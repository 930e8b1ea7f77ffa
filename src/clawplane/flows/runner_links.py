"""What is remembered of runners that are connected, and of jobs that were offered to them."""

from __future__ import annotations

from typing import Final

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import HEARTBEAT_EVERY_MS, Claim, JobKind, RunnerRecord, Want
from clawplane.domain.ports import RunnerConnection

_STALLED_MS: Final = 2 * HEARTBEAT_EVERY_MS
"""A runner that has missed its heartbeat is offered nothing until it is heard again."""


class RunnerLink:
    """One connected runner."""

    def __init__(self, record: RunnerRecord, connection: RunnerConnection, now: int) -> None:
        self.record = record
        self.connection = connection
        self.free: dict[str, int] = {}
        self.unanswered: dict[JobId, str] = {}
        """Offers on their way, with their capability: the runner's own count of free slots cannot include them yet."""
        self.draining = False
        self.heard_at = now

    def said_free(self, free: dict[str, int], now: int) -> None:
        """Take a runner's word about its free slots, less the offers that it cannot have counted."""
        on_their_way = list(self.unanswered.values())
        self.free = {caps: count - on_their_way.count(caps) for caps, count in free.items()}
        self.heard_at = now

    def wants(self, now: int) -> list[Want]:
        """Return what this runner can take; nothing while it is silent, for its link may outlive it for minutes."""
        if self.draining or now - self.heard_at > _STALLED_MS:
            return []
        offered = self.record.capabilities
        return [
            Want(runner=self.record.id, caps=caps, count=count)
            for caps, count in self.free.items()
            if count > 0 and caps in offered
        ]


class OfferedJob:
    """What is remembered of a job that was offered here."""

    def __init__(self, kind: JobKind, subject: str, runner: RunnerId, timeout_ms: int, offered_at: int) -> None:
        self.kind = kind
        self.subject = subject
        self.runner = runner
        self.timeout_ms = timeout_ms
        self.offered_at = offered_at
        self.claim: Claim | None = None
        """Set while the offer is not confirmed."""


def record_of(runner: RunnerRecord, *, connected: bool, draining: bool, now: int) -> RunnerRecord:
    """Return what is stored of a runner that was heard of `now`."""
    return RunnerRecord(
        id=runner.id,
        name=runner.name,
        version=runner.version,
        capabilities=runner.capabilities,
        labels=runner.labels,
        slots=runner.slots,
        connected=connected,
        last_seen=now,
        draining=draining,
    )


def capability_of(kind: JobKind) -> str:
    """Return the capability that a runner needs for a kind of job."""
    return "builds" if kind is JobKind.BUILD else "workers"
