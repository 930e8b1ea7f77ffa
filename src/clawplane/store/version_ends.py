"""What happens to a version when its build's job has ended."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from clawplane.domain.ids import JobId
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.runs import EndedRun
from clawplane.domain.workers import build_subject
from clawplane.store.database import Transaction
from clawplane.store.endings import BuildVerdict, Ending, Retry
from clawplane.store.events import NewEvent, append_events
from clawplane.store.leases import id_list

_to_json = msgspec.json.Encoder().encode


class BuildConsequences:
    """The meaning of jobs of kind `build`; a version is building from its upload on, however often it is tried."""

    async def confirmed(self, tx: Transaction, jobs: Sequence[JobId], now: int) -> None:
        """Change nothing."""

    async def retried(self, tx: Transaction, retries: Sequence[Retry]) -> None:
        """Change nothing."""

    async def ended(self, tx: Transaction, endings: Sequence[Ending]) -> dict[JobId, EndedRun]:
        """Settle the versions that were building; no run ends with them."""
        by_job = {ending.job: ending for ending in endings}
        events = []
        for id_, worker, version, job in await tx.fetch("building_versions", {"jobs": id_list(by_job)}):
            ending = by_job[job]
            verdict = ending.verdict or _verdict(ending)
            ready = verdict.status is VersionStatus.READY
            await tx.execute(
                "settle_version",
                {
                    "status": verdict.status.value,
                    "environment": None if verdict.environment is None else _to_json(verdict.environment).decode(),
                    "build_error": verdict.error,
                    "ready_at": ending.at if ready else None,
                    "id": id_,
                },
            )
            if ready:
                await tx.execute("set_current_version", {"worker": worker})
            events.append(NewEvent(ending.at, f"version.{verdict.status.value}", build_subject(worker, version), {}))
        await append_events(tx, events)
        return {}


def _verdict(ending: Ending) -> BuildVerdict:
    """Return what an end without a verdict of its own means: lost, cancelled, or finished by the queue alone."""
    if ending.outcome.succeeded and not ending.aborted:
        return BuildVerdict(VersionStatus.READY, None, "")
    return BuildVerdict(VersionStatus.FAILED, None, ending.outcome.message or "The build was cancelled.")
