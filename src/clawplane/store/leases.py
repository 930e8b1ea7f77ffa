"""Leases as the store sees them inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, JobKind, LeaseView
from clawplane.store.database import Row, Transaction

KINDS = {kind.value: kind for kind in JobKind}
KIND_NAMES = {kind: kind.value for kind in JobKind}


class Held(msgspec.Struct, gc=False):
    """What the end of a lease needs to know; an offer while `confirmed_at` is None. Times in milliseconds."""

    job: JobId
    fence: int
    nonce: int
    attempt: int
    confirmed_at: int | None
    cancel: str | None
    kind: str
    caps: str
    ready_at: int
    max_attempts: int

    def answers_to(self, claim: Claim) -> bool:
        """Tell whether the claim's word counts."""
        return self.fence == claim.fence and self.nonce == claim.nonce


class Lease(Held, gc=False):
    """All that is known of a lease."""

    runner: RunnerId
    subject: str
    deadline_at: int | None
    timeout_ms: int

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


def lease_of(row: Row) -> Lease:
    """Return one lease from its row."""
    return Lease(*row)


def id_list(ids: Iterable[int]) -> str:
    """Return ids in the form in which statements take a set of them."""
    return "[" + ",".join(map(str, ids)) + "]"


async def leases_of(tx: Transaction, jobs: Iterable[JobId]) -> dict[JobId, Lease]:
    """Return the leases of these jobs by job."""
    rows = await tx.fetch("leases_of_jobs", {"jobs": id_list(dict.fromkeys(jobs))})
    return {row[0]: Lease(*row) for row in rows}


async def held_of(tx: Transaction, jobs: Iterable[JobId]) -> dict[JobId, Held]:
    """Return what the ends of these jobs' leases need to know, by job."""
    rows = await tx.fetch("claims_of_jobs", {"jobs": id_list(dict.fromkeys(jobs))})
    return {row[0]: Held(*row) for row in rows}
