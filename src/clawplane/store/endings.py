"""What the queue tells the rest of the store about jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from clawplane.domain.host_tasks import TaskReport
from clawplane.domain.ids import JobId
from clawplane.domain.leases import Outcome
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.runs import EndedRun
from clawplane.domain.workers import Environment
from clawplane.store.database import Transaction
from clawplane.store.host_rows import StoredTask


class BuildVerdict(msgspec.Struct, frozen=True):
    """What becomes of a version whose build has ended."""

    status: VersionStatus
    environment: Environment | None
    error: str


class Retry(msgspec.Struct, frozen=True, gc=False):
    """A job that goes back to the queue at `at`, after an attempt that used `cpu_ms`."""

    job: JobId
    cpu_ms: int
    at: int


class Ending(msgspec.Struct, frozen=True, gc=False):
    """A job that has ended for good at `at`.

    verdict: only for builds whose end says more than the outcome; report: only for host tasks whose end was told on
    another way than the link, where the outcome carries it; task: that task, where it was looked up already.
    """

    job: JobId
    outcome: Outcome
    aborted: bool
    at: int
    verdict: BuildVerdict | None = None
    report: TaskReport | None = None
    task: StoredTask | None = None


class Consequences(Protocol):
    """What a kind of job stands for."""

    async def confirmed(self, tx: Transaction, jobs: Sequence[JobId], now: int) -> None:
        """Note that an attempt at these jobs begins; the rows that their earlier attempts shipped are void."""
        ...

    async def retried(self, tx: Transaction, retries: Sequence[Retry]) -> None:
        """Note that these jobs wait again."""
        ...

    async def ended(self, tx: Transaction, endings: Sequence[Ending]) -> dict[JobId, EndedRun]:
        """Settle what these jobs were for; return the runs that ended, each under the job that ended it."""
        ...
