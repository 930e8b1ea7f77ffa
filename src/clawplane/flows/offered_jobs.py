"""What is remembered of jobs that were offered to runners, and whether each offer became a lease."""

from __future__ import annotations

from asyncio import Future, get_running_loop

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, LeaseView, Offer


class OfferedJob:
    """What is remembered of a job that was offered here."""

    def __init__(self, offer: Offer | LeaseView, *, timeout_ms: int, offered_at: int) -> None:
        self.kind = offer.kind
        self.subject = offer.subject
        self.runner = offer.runner
        self.fence = offer.fence
        self.timeout_ms = timeout_ms
        self.offered_at = offered_at
        self.claim: Claim | None = None
        """Set while the offer is not confirmed."""
        self._confirmation: Future[bool] | None = None

    @property
    def confirmation(self) -> Future[bool] | None:
        """Return what tells whether the offer becomes a lease; None when it is one."""
        if self.claim is None:
            return None
        if self._confirmation is None:
            self._confirmation = get_running_loop().create_future()
        return self._confirmation

    def settle(self, *, confirmed: bool) -> None:
        """Tell whoever waits what became of the offer; the first word counts."""
        self.claim = None
        if self._confirmation is not None and not self._confirmation.done():
            self._confirmation.set_result(confirmed)


class OfferedJobs:
    """Those that were offered by this process, or that runners came back with."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, OfferedJob] = {}

    def get(self, job: JobId) -> OfferedJob | None:
        """Return what is known of a job."""
        return self._jobs.get(job)

    def put(self, job: JobId, known: OfferedJob) -> None:
        """Remember a job."""
        self._jobs[job] = known

    def offered_to(self, runner: RunnerId) -> list[OfferedJob]:
        """Return the jobs that a runner was offered and has not confirmed."""
        return [job for job in self._jobs.values() if job.runner == runner and job.claim is not None]

    def forget(self, job_id: JobId) -> OfferedJob | None:
        """Forget a job; whoever waits for its confirmation waits in vain."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            job.settle(confirmed=False)
        return job

    def forget_offer(self, job_id: JobId, fence: int) -> None:
        """Forget an offer; one that was confirmed, or was made anew, is left alone."""
        job = self._jobs.get(job_id)
        if job is not None and job.claim is not None and job.claim.fence == fence:
            self.forget(job_id)
