"""What the leases tell of jobs, whatever their kind: `session` is the job's subject."""

from __future__ import annotations

from typing import Protocol

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.sessions import LiveState


class SessionWatch(Protocol):
    """Whoever wants to know; the store is always ahead of what is told here."""

    def placed(self, session: str, job: JobId) -> None:
        """A runner was offered the job, or came back with it: it can be asked from now on."""
        ...

    def confirmed(self, session: str, job: JobId, runner: RunnerId) -> None:
        """A runner took the job."""
        ...

    def noted(self, session: str, job: JobId, state: LiveState) -> None:
        """Its runner said how it stands."""
        ...

    async def ending(self, session: str) -> None:
        """The job is about to be over; wait until the store knows everything that was noted of the session."""
        ...

    def ended(self, session: str, job: JobId) -> None:
        """The job is over, or was taken back; the store knows what became of the session."""
        ...

    def linked(self, runner: RunnerId) -> None:
        """A runner has connected."""
        ...


class NobodyWatches:
    """A watch for an installation without sessions."""

    def placed(self, session: str, job: JobId) -> None:
        """Ignore it."""

    def confirmed(self, session: str, job: JobId, runner: RunnerId) -> None:
        """Ignore it."""

    def noted(self, session: str, job: JobId, state: LiveState) -> None:
        """Ignore it."""

    async def ending(self, session: str) -> None:
        """Ignore it."""

    def ended(self, session: str, job: JobId) -> None:
        """Ignore it."""

    def linked(self, runner: RunnerId) -> None:
        """Ignore it."""
