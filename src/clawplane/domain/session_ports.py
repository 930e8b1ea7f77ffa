"""The ports of code sessions: where they are kept, and how one is spoken to. See ports.py for the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import LeaseView, NewJob
from clawplane.domain.session_history import ExecRecord, Workspace
from clawplane.domain.sessions import LiveState, Session, SessionState


class Conversation(Protocol):
    """One question to a live session. Iterating yields what it streams, to the answer; both ways are bounded.

    When the link is cut, the answer is the error Unavailable: what was asked may have been done.
    """

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the streamed events (msgpack, or raw bytes) as they come."""
        ...

    async def answer(self) -> bytes:
        """Return the answer as msgpack; events not read by then are dropped. Raises the runner's error."""
        ...

    async def feed(self, chunk: bytes, *, last: bool = False) -> None:
        """Send data that the question takes; waits while the runner takes none. The error comes with `answer`."""
        ...

    def withdraw(self) -> None:
        """Tell the runner that nobody waits any more; after the answer this does nothing."""
        ...


class EndedSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was ended, and the leases to be cancelled for it."""

    session: Session
    leases: tuple[LeaseView, ...] = ()


class Sessions(Protocol):
    """Code sessions, what was executed in them, and named workspaces. Appends an event with every change of state."""

    async def create(self, session: Session, job: NewJob, *, max_live: int) -> Session:
        """Store a session with its job in one transaction and return it.

        A live session of the same owner and name is returned in its place. A named workspace is attached, or made; when
        it is on a runner's disk, the job asks for that runner. Raises ConcurrencyLimited at `max_live` sessions of the
        owner that have not ended, Unavailable while another session is making the workspace.
        """
        ...

    async def find(self, session_id: str) -> Session | None:
        """Return one session."""
        ...

    async def page(
        self, *, owner: str | None, state: SessionState | None, ended: bool, name: str, limit: int, offset: int
    ) -> tuple[int, list[Session]]:
        """Return the count and one page, newest first, those that have `ended` too or not; `name` "": any."""
        ...

    async def note(self, session_id: str, job: JobId, state: LiveState, *, now: int) -> None:
        """Keep what its runner says of a session; a word about another job than its present one is ignored."""
        ...

    async def wake(self, session_id: str, job: NewJob, *, now: int) -> Session | None:
        """Give a session that sleeps without a lease a new job and return it; None when it has ended.

        A session whose job still waits or runs is returned as it is. `job.caps` is replaced by the runner's own.
        """
        ...

    async def end(self, session_id: str, reason: str, *, now: int) -> EndedSession | None:
        """End a session and cancel its job; None when it has ended already or never was."""
        ...

    async def set_end(self, session_id: str, ends_at: int | None) -> None:
        """Let a session end at a fixed time, used or not; None gives it back to its idle time."""
        ...

    async def record(self, record: ExecRecord, *, now: int) -> None:
        """Put an exec into its session's history; beyond history's bound the oldest go.

        A `running` one is replaced in its place by the record of its end, which counts the exec and notes the use.
        """
        ...

    async def stop_running(self, *, now: int) -> None:
        """Let every `running` record end as unknown; asked once, before the first exec of this process."""
        ...

    async def execs(self, session_id: str, *, limit: int, offset: int) -> tuple[int, list[ExecRecord]]:
        """Return how many execs are kept, and one page of them, newest first; `offset` in rows."""
        ...

    async def prune_history(self, *, used_before: int, limit: int = 100) -> bool:
        """Forget the execs of some sessions that nobody has used since; True when there are more of them."""
        ...

    async def expired(self, *, now: int, limit: int = 100) -> list[Session]:
        """Return sessions that have not ended and whose time is over."""
        ...

    async def next_expiry(self) -> int | None:
        """Return when `expired` has something to tell at the earliest, or None."""
        ...

    async def workspaces(self, owner: str) -> list[Workspace]:
        """Return an owner's named workspaces, by name."""
        ...

    async def remove_workspace(self, owner: str, name: str) -> Workspace | None:
        """Forget a workspace and return it; None when there is none. Raises Conflict while a session is attached."""
        ...

    async def litter(self, runner: RunnerId) -> list[str]:
        """Return the ended sessions of which this runner still has something on its disk."""
        ...

    async def swept(self, runner: RunnerId, sessions: Sequence[str]) -> None:
        """Note that the runner has deleted what it had of these sessions."""
        ...
