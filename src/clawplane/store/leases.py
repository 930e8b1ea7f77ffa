"""Leases as the store sees them inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, JobKind, LeaseView
from clawplane.store.database import Row, Transaction

_SUBTASK = JobKind.SUBTASK
KINDS = {kind.value: kind for kind in JobKind}


class Held(msgspec.Struct, gc=False):
    """A lease with what its job says of it; an offer while `confirmed_at` is None. Times in milliseconds."""

    job: JobId
    fence: int
    nonce: int
    runner: RunnerId
    attempt: int
    offered_at: int
    offer_until: int
    confirmed_at: int | None
    deadline_at: int | None
    cancel: str | None
    kind: str
    subject: str
    caps: str
    ready_at: int
    timeout_ms: int
    max_attempts: int

    def answers_to(self, claim: Claim) -> bool:
        """Tell whether the claim's word counts."""
        return self.fence == claim.fence and self.nonce == claim.nonce

    def view(self) -> LeaseView:
        """Return the lease as the rest of the program sees it."""
        return LeaseView(
            job=self.job,
            kind=KINDS[self.kind],
            subject=self.subject,
            runner=self.runner,
            attempt=self.attempt,
            fence=self.fence,
            nonce=self.nonce,
            confirmed=self.confirmed_at is not None,
            cancel=self.cancel,
            deadline_at=self.deadline_at,
        )


def held(row: Row) -> Held:
    """Return one lease from its row."""
    return Held(*row)


def id_list(ids: Iterable[int]) -> str:
    """Return ids in the form in which statements take a set of them."""
    return "[" + ",".join(map(str, ids)) + "]"


async def leases_of(tx: Transaction, jobs: Iterable[JobId]) -> dict[JobId, Held]:
    """Return the leases of these jobs by job."""
    rows = await tx.fetch("leases_of_jobs", {"jobs": id_list(dict.fromkeys(jobs))})
    return {row[0]: Held(*row) for row in rows}
