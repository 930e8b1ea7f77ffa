"""Code sessions as their owners see them: create, execute, look, reset, branch, sleep, delete; and their files.

Everything that is asked of a session goes to the runner that has it (`SessionPlaces.reach`), which wakes it if it
sleeps. Who may ask is decided here: a session of somebody else does not exist. What is asked was checked by
`domain.session_rules` before, and the runner checks what only it can see.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from clawplane.domain import asks
from clawplane.domain.access import Caller, Scope
from clawplane.domain.clock import Clock
from clawplane.domain.errors import (
    ClawplaneError,
    Conflict,
    NotFound,
    RateLimited,
    StaleLease,
    StoreError,
    Unavailable,
)
from clawplane.domain.ids import JobId, JobIds, RunnerId, new_ulid
from clawplane.domain.runner_asks import REFUSED, ForgetWorkspace
from clawplane.domain.session_history import KEPT, ExecRecord, Workspace, notebook
from clawplane.domain.session_ports import Sessions as SessionStore
from clawplane.domain.sessions import (
    ExecEvent,
    ExecRequest,
    ExecResult,
    FileEntry,
    LiveState,
    Session,
    SessionOptions,
    SessionState,
    Tool,
)
from clawplane.domain.wakeups import Wakeups
from clawplane.flows.execs import Execution
from clawplane.flows.leases import Leases
from clawplane.flows.session_expiry import SessionExpiry
from clawplane.flows.session_files import SessionFiles
from clawplane.flows.session_places import Patience, Place, SessionPlaces

A = TypeVar("A", bound=msgspec.Struct)

_log = logging.getLogger(__name__)

_encode = msgspec.msgpack.Encoder().encode
DELETED: Final = "It was deleted."
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What one installation allows. `waiting` bounds the execs of one session that are under way or queued.

    `history_days` after its last use a session's execs are forgotten.
    """

    live_per_owner: int = 2000
    waiting: int = 100
    history_days: int = 30


class Sessions:
    """The life of sessions."""

    def __init__(
        self,
        *,
        sessions: SessionStore,
        leases: Leases,
        wakeups: Wakeups,
        clock: Clock,
        ids: JobIds,
        limits: SessionLimits | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._sessions = sessions
        self._leases = leases
        self._clock = clock
        self._ids = ids
        self._limits = limits or SessionLimits()
        self._places = SessionPlaces(sessions, leases, wakeups, clock, ids, patience=patience)
        self._expiry = SessionExpiry(
            sessions, self._places, clock, self._end, history_ms=self._limits.history_days * _DAY_MS
        )
        self._expiring: asyncio.Task[None] | None = None
        leases.watch(self._places)

    async def start(self) -> None:
        """Say of execs that the process before this one left behind what is known; begin to end sessions in time."""
        try:
            await self._sessions.stop_running(now=self._clock.now_ms())
        except StoreError as error:  # a full disk is no reason to be away for those who want to make room
            _log.warning(
                "Execs of an earlier process are still told as running, until the next start: %s", error.message
            )
        self._expiring = asyncio.create_task(self._expiry.run())

    async def close(self) -> None:
        """Stop; sessions live on where they run. Safe to call twice, or without a start."""
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.gather(self._expiring, return_exceptions=True)
            self._expiring = None
        await self._places.close()

    # life

    async def create(
        self, caller: Caller, options: SessionOptions, *, placed: bool = True, ends_at: int | None = None
    ) -> Session:
        """Create a session, or return the caller's live one of the same name; `placed` waits until a runner has it.

        `ends_at` (ms) is a fixed end, used or not, in place of the idle time.
        """
        if ends_at is not None:
            options = msgspec.structs.replace(options, expires_after=0)
        new = self._new(caller, options)
        session = await self._places.submit(new, max_live=self._limits.live_per_owner, ends_at=ends_at)
        self._expiry.not_later_than(session.expires_at)
        return await self._placed(session, new) if placed else session

    async def find(self, caller: Caller, session_id: str) -> Session:
        """Return a session that the caller may see; raises NotFound."""
        session = await self._places.session(session_id)
        if session is None or not (session.owner == caller.owner or caller.may(Scope.ADMIN)):
            raise unknown(session_id)
        return session

    def live(self, session: Session) -> LiveState | None:
        """Return what the runner last said of a session that lives."""
        return self._places.live(session.id)

    def executing(self, session: Session) -> int:
        """Return how many execs of a session are under way or queued."""
        return self._places.busy[session.id]

    async def page(
        self, caller: Caller, *, state: SessionState | None, ended: bool, name: str, limit: int, offset: int
    ) -> tuple[int, list[Session]]:
        """Return the count and one page of the caller's sessions, newest first; `offset` in rows."""
        await self._places.chronicle.settle()
        return await self._sessions.page(
            owner=caller.owner, state=state, ended=ended, name=name, limit=limit, offset=offset
        )

    async def all(self, caller: Caller) -> list[Session]:
        """Return the caller's sessions that have not ended, newest first."""
        most = self._limits.live_per_owner * 2
        _, found = await self.page(caller, state=None, ended=False, name="", limit=most, offset=0)
        return found

    async def known(self, session_id: str) -> Session:
        """Return a session, whoever owns it, for somebody who has proved to hold its token."""
        session = await self._places.session(session_id)
        if session is None:
            raise unknown(session_id)
        return session

    async def set_end(self, caller: Caller, session_id: str, ends_at: int | None) -> Session:
        """Let a session end at a fixed time in ms, used or not; None gives it back to its idle time."""
        session = await self.find(caller, session_id)
        await self._sessions.set_end(session.id, ends_at)
        self._places.forget(session.id)
        self._expiry.not_later_than(ends_at)
        return await self.find(caller, session_id)

    async def delete(self, caller: Caller, session_id: str) -> Session:
        """End a session now and for good; one that has ended stays as it is."""
        session = await self.find(caller, session_id)
        return await self._end(session, DELETED) or await self.find(caller, session_id)

    async def ask(self, caller: Caller, session_id: str, method: str, question: msgspec.Struct) -> msgspec.Struct:
        """Return the answer to a question of domain.asks.METHODS that streams nothing."""
        return await self._ask(await self.find(caller, session_id), method, question, asks.METHODS[method][2])

    async def state(self, caller: Caller, session_id: str) -> LiveState:
        """Ask the runner how a session stands; this wakes it."""
        return await self._ask(await self.find(caller, session_id), "state", asks.Nothing(), LiveState)

    async def reset(self, caller: Caller, session_id: str, question: asks.Reset) -> LiveState:
        """Replace a session's interpreter; its files stay."""
        return await self._ask(await self.find(caller, session_id), "reset", question, LiveState)

    async def rollback(self, caller: Caller, session_id: str, question: asks.Rollback) -> LiveState:
        """Go back to before some of the last execs."""
        return await self._ask(await self.find(caller, session_id), "rollback", question, LiveState)

    async def sleep(self, caller: Caller, session_id: str, *, save: bool) -> LiveState:
        """Let a session sleep now; one that sleeps without a lease stays as it is."""
        session = await self.find(caller, session_id)
        if session.state is SessionState.SLEEPING and self._leases.reach(session.job) is None:
            return LiveState(state=SessionState.SLEEPING, expires_at=session.expires_at)
        state = await self._ask(session, "sleep", asks.Sleep(save=save), LiveState)
        self._places.noted(session.id, session.job, state)  # the runner's own note comes later, by another lane
        return state

    async def interrupt(self, caller: Caller, session_id: str, exec_id: str = "") -> None:
        """Interrupt an exec, or whatever runs; a session that does not live has nothing to interrupt."""
        session = await self.find(caller, session_id)
        if self._leases.reach(session.job) is not None:
            await self._ask(session, "interrupt", asks.Interrupt(exec_id=exec_id), asks.Nothing)

    async def branch(self, caller: Caller, session_id: str, *, name: str = "") -> Session:
        """Copy a session's live interpreter into a new session on the same runner."""
        source = await self.find(caller, session_id)
        options = msgspec.structs.replace(source.options, workspace=None, name=name)
        copy = self._new(caller, options, branch_of=source.id)
        async with self._places.in_words(source):
            place = await self._places.reach(source)
            await self._answer(place, "branch", asks.Branch(session=copy.id), asks.Nothing)
        at = self._places  # the copy waits at the runner for the job that names it
        known = await at.session(source.id)
        copy = msgspec.structs.replace(copy, runner=(known or source).runner)
        try:
            stored = await at.submit(copy, max_live=self._limits.live_per_owner)
        except ClawplaneError:  # nobody will come for the copy
            at.spawn(at.forget_at_runner(place.connection, copy.id))
            raise
        self._expiry.not_later_than(stored.expires_at)
        return await self._placed(stored, copy)

    # execs

    def request(self, tool: Tool, code: str, **more: Any) -> ExecRequest:
        """Return what is to be executed, with an id of its own; `more` are fields of domain.sessions.ExecRequest."""
        return ExecRequest(id=new_ulid(self._clock.now_ms()), tool=tool, code=code, **more)

    async def prepare(
        self, caller: Caller, session_id: str | None, request: ExecRequest, *, quiet: bool = False
    ) -> Execution:
        """Return an exec that is ready to be entered (`async with`); without a session id a session is created.

        The request's values were checked by domain.session_rules. A `quiet` exec has a result and no events.
        """
        if session_id is None:
            session = await self.create(caller, SessionOptions())
        else:
            session = await self.find(caller, session_id)
        if self._places.busy[session.id] >= self._limits.waiting:
            raise RateLimited(f"{self._limits.waiting} execs of this session are waiting.", hint="Wait for their ends.")
        return Execution(session, request, places=self._places, clock=self._clock, quiet=quiet)

    async def execute(
        self, caller: Caller, session_id: str | None, request: ExecRequest
    ) -> AsyncGenerator[ExecEvent | ExecResult, None]:
        """Yield what an exec says while it runs, and its result last; closing the generator early ends the exec."""
        async with await self.prepare(caller, session_id, request) as run:
            async for event in run.events():
                yield event
            yield await run.result()

    async def execs(self, caller: Caller, session_id: str, *, limit: int, offset: int) -> tuple[int, list[ExecRecord]]:
        """Return how many execs are kept of a session, and one page of them, newest first; `offset` in rows."""
        session = await self.find(caller, session_id)
        await self._places.chronicle.settle(session.id)
        return await self._sessions.execs(session.id, limit=limit, offset=offset)

    async def notebook(self, caller: Caller, session_id: str) -> dict[str, object]:
        """Return a session's history as a notebook."""
        session = await self.find(caller, session_id)
        _, records = await self.execs(caller, session_id, limit=KEPT, offset=0)
        return notebook(session, reversed(records))

    # files

    async def files(self, caller: Caller, session_id: str | None) -> SessionFiles:
        """Return the way to a session's workspace; without an id a session is created."""
        if session_id is None:
            session = await self.create(caller, SessionOptions())
        else:
            session = await self.find(caller, session_id)
        return SessionFiles(session, self._places)

    async def read(self, caller: Caller, session_id: str, question: asks.ReadFile) -> AsyncGenerator[bytes, None]:
        """Yield a workspace file, or the piece of it that is asked for."""
        files = await self.files(caller, session_id)
        stream = await files.read(question.path, offset=question.offset, limit=question.limit)
        async with aclosing(stream.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def write(
        self, caller: Caller, session_id: str, question: asks.WriteFile, chunks: AsyncIterator[bytes]
    ) -> FileEntry:
        """Write a workspace file; it changes when the last chunk came, and not at all when `chunks` raises."""
        return await (await self.files(caller, session_id)).write(question, chunks)

    async def workspaces(self, caller: Caller) -> list[Workspace]:
        """Return the caller's named workspaces."""
        return await self._sessions.workspaces(caller.owner)

    async def delete_workspace(self, caller: Caller, name: str) -> None:
        """Delete a named workspace with its files; raises NotFound, Conflict while a session is attached to it."""
        found = next((item for item in await self.workspaces(caller) if item.name == name), None)
        if found is not None and found.sessions:
            raise Conflict(
                f"workspace: {name!r} is attached to the session {found.sessions[0]}.", hint="Delete the session first."
            )
        if found is None:
            raise NotFound(f"workspace: there is no workspace {name[:80]!r}.", hint="List them: GET /v1/workspaces.")
        connection = None if found.runner is None else self._leases.connection_to(RunnerId(found.runner))
        if found.runner is not None and connection is None:
            raise Unavailable(
                f"The runner {found.runner}, which has this workspace, is not connected.", hint="Start it again."
            )
        if connection is not None:  # the files first: what is not listed any more nobody could delete again
            question = ForgetWorkspace(owner=caller.owner, workspace=name)
            await connection.ask(JobId(0), 0, "forget_workspace", _encode(question)).answer()
        await self._sessions.remove_workspace(caller.owner, name)

    # pieces

    def _new(self, caller: Caller, options: SessionOptions, *, branch_of: str | None = None) -> Session:
        now = self._clock.now_ms()
        return Session(
            id=new_ulid(now),
            owner=caller.owner,
            state=SessionState.CREATING,
            options=options,
            job=self._ids.next(now),
            created_at=now,
            used_at=now,
            expires_at=now + options.expires_after * 1000 if options.expires_after else None,
            branch_of=branch_of,
        )

    async def _placed(self, session: Session, new: Session) -> Session:
        """Wait until a runner has a session; a new one that none has room for is ended, for nobody knows its id."""
        try:
            return (await self._places.reach(session)).session
        except Unavailable as error:
            if session.id == new.id:
                await self._end(session, error.message)
            raise

    async def _end(self, session: Session, reason: str) -> Session | None:
        ended = await self._sessions.end(session.id, reason, now=self._clock.now_ms())
        self._places.ended(session.id, session.job)
        if ended is None:
            return None
        self._leases.cancel(ended.leases, reason)
        runner = ended.session.runner
        if runner is not None and not any(lease.confirmed for lease in ended.leases):
            self._places.spawn(self._places.sweep(runner))
        return ended.session

    async def _ask(self, session: Session, method: str, question: msgspec.Struct, answer: type[A]) -> A:
        async with self._places.in_words(session):
            return await self._ask_again(session, method, question, answer)

    async def _ask_again(self, session: Session, method: str, question: msgspec.Struct, answer: type[A]) -> A:
        place = await self._places.reach(session)
        try:
            return await self._answer(place, method, question, answer)
        except StaleLease as error:
            if REFUSED not in error.details:
                raise
            await self._places.departed(place.session)
            return await self._answer(await self._places.reach(session), method, question, answer)

    @staticmethod
    async def _answer(place: Place, method: str, question: msgspec.Struct, answer: type[A]) -> A:
        asked = place.ask(method, question)
        try:
            return msgspec.msgpack.decode(await asked.answer(), type=answer)
        finally:
            asked.withdraw()


def unknown(session_id: str) -> NotFound:
    """Return the error of a session that is not there, or is somebody else's."""
    return NotFound(
        f"session_id: there is no session {session_id[:80]!r}.",
        hint="List yours with GET /v1/sessions, or leave `session_id` out to get a new one.",
    )
