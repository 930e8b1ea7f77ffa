"""Where sessions live: find one, wake it if it sleeps, and reach the runner that has it.

What is known of sessions that were used lately is remembered, so that an exec in a live session asks no database. The
leases tell every change (`SessionWatch`), and whatever is told here is in the store already: a session that may have
changed is simply forgotten and read again. Execs go to the runner in the order in which they came; it queues them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from clawplane.domain.asks import METHODS
from clawplane.domain.clock import Clock
from clawplane.domain.errors import ClawplaneError, Conflict, Unavailable
from clawplane.domain.ids import JobId, JobIds, RunnerId
from clawplane.domain.leases import JobKind, NewJob
from clawplane.domain.ports import RunnerConnection
from clawplane.domain.runner_asks import ForgetSession
from clawplane.domain.session_ports import Conversation, Sessions
from clawplane.domain.session_rules import NEVER_MS, caps_of
from clawplane.domain.sessions import LiveState, Session, SessionSpec, SessionState
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels
from clawplane.flows.chronicle import Chronicle
from clawplane.flows.leases import Leases
from clawplane.flows.under_offer import UnderOffer
from clawplane.flows.underway import Underway

_log = logging.getLogger(__name__)

_REMEMBERED: Final = 8192
_MATERIAL_MS: Final = 30_000
"""A time that a runner notes is stored when it has moved by more than this; execs move it a little each time."""

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds to wait for a runner to take a session, and for a runner that has just lost its link."""

    placing: float = 30.0
    linking: float = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """A session that can be asked."""

    session: Session
    connection: RunnerConnection
    job: JobId
    fence: int
    confirmation: asyncio.Future[bool] | None = None
    """Tells whether the offer becomes a lease, while that is open (flows/under_offer.py)."""

    def ask(self, method: str, question: msgspec.Struct, *, quiet: bool = False) -> Conversation:
        """Ask something of domain.asks.METHODS; `quiet` when only the answer is wanted."""
        if not isinstance(question, METHODS[method][0]):
            raise TypeError(f"{method} does not ask {type(question).__name__}")
        asked = self.connection.ask(self.job, self.fence, method, _encode(question), quiet=quiet)
        return asked if self.confirmation is None else UnderOffer(asked, self.confirmation)


class SessionPlaces:
    """The sessions that were used lately, and the way to them. Implements `flows.session_watch.SessionWatch`."""

    def __init__(
        self,
        sessions: Sessions,
        leases: Leases,
        wakeups: Wakeups,
        clock: Clock,
        ids: JobIds,
        *,
        patience: Patience | None = None,
    ) -> None:
        self._sessions = sessions
        self._leases = leases
        self._wakeups = wakeups
        self._clock = clock
        self._ids = ids
        self._patience = patience or Patience()
        self._known: OrderedDict[str, Session] = OrderedDict()
        self._live: dict[str, LiveState] = {}
        self._arrivals: dict[JobId, list[asyncio.Future[None]]] = defaultdict(list)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.chronicle = Chronicle(sessions)
        self.underway = Underway(self.chronicle, clock)
        self.busy: Counter[str] = Counter()
        """Execs under way by session."""

    # find

    async def session(self, session_id: str) -> Session | None:
        """Return a session as it was last heard of."""
        known = self._known.get(session_id)
        if known is None:
            known = await self._sessions.find(session_id)
            if known is not None:
                self._remember(known)
        return known

    def live(self, session_id: str) -> LiveState | None:
        """Return what its runner last said of a session that lives."""
        return self._live.get(session_id)

    def used(self, session: Session, now: int) -> None:
        """Note an exec."""
        known = self._known.get(session.id)
        if known is not None:
            self._known[session.id] = msgspec.structs.replace(
                known, used_at=now, exec_count=known.exec_count + 1, expires_at=self._expiry_of(known, now)
            )

    @staticmethod
    def _expiry_of(session: Session, now: int) -> int | None:
        """Return when a session expires that is used now; one without an idle time may have a fixed end."""
        after = session.options.expires_after
        return now + after * 1000 if after else session.expires_at

    def forget(self, session_id: str) -> None:
        """Read this session from the store the next time."""
        self._known.pop(session_id, None)
        self._live.pop(session_id, None)

    # place

    def job_for(self, session: Session, *, resume: bool) -> NewJob:
        """Return a job that holds this session."""
        now = self._clock.now_ms()
        spec = SessionSpec(
            session=session.id,
            owner=session.owner,
            options=session.options,
            resume=resume,
            branch_of=None if resume else session.branch_of,
        )
        return NewJob(
            id=session.job if not resume else self._ids.next(now),
            kind=JobKind.SESSION,
            subject=session.id,
            caps=caps_of(session.runner),
            ready_at=now,
            spec=_encode(spec),
            timeout_ms=NEVER_MS,
            max_attempts=1,
        )

    async def submit(self, session: Session, *, max_live: int, ends_at: int | None = None) -> Session:
        """Store a new session and offer its job with the same commit; returns the live one of its name if there is.

        `ends_at` is a fixed end in milliseconds, which takes the place of the idle time.
        """
        self._expect_runner(session.runner)
        return await self._to_its_end(self._submit(session, max_live, ends_at))

    async def _submit(self, session: Session, max_live: int, ends_at: int | None) -> Session:
        job = self.job_for(session, resume=False)
        stored, _ = await asyncio.gather(
            self._sessions.create(session, job, max_live=max_live), self._leases.offer_now(job.caps)
        )
        if ends_at is not None:
            await self._sessions.set_end(stored.id, ends_at)
            stored = msgspec.structs.replace(stored, expires_at=ends_at)
        self._remember(stored)
        if self._leases.reach(stored.job) is None:
            self._wakeups.notify(channels.READY)
        self._wakeups.notify(channels.EVENTS)
        return stored

    async def reach(self, session: Session) -> Place:
        """Return the way to a session; one that sleeps without a lease is woken. Raises Conflict, Unavailable."""
        if session.state is SessionState.ENDED:
            raise gone(session)
        place = self._place(session)
        if place is not None:
            return place
        self.forget(session.id)
        found = await self.session(session.id)
        if found is None or found.state is SessionState.ENDED:
            raise gone(found or session)
        if found.state is SessionState.SLEEPING:
            found = await self._wake(found)
        waits = found.state is SessionState.CREATING
        await self._arrival(found.job, self._patience.placing if waits else self._patience.linking)
        place = self._place(self._known.get(found.id, found))
        if place is None:
            raise self._out_of_reach(found)
        return place

    async def why_gone(self, session_id: str) -> ClawplaneError | None:
        """Return the error of a session that has ended, None while it has not."""
        found = await self._sessions.find(session_id)
        if found is None or found.state is not SessionState.ENDED:
            return None
        self.forget(session_id)
        return gone(found)

    @asynccontextmanager
    async def in_words(self, session: Session) -> AsyncIterator[None]:
        """Say of a question that failed because its session ended that it has, and why, not how that was noticed."""
        try:
            yield
        except (Conflict, Unavailable) as error:
            why = await self.why_gone(session.id)
            if why is None:
                raise
            raise why from error

    def _place(self, session: Session) -> Place | None:
        reached = self._leases.reach(session.job)
        return None if reached is None else Place(session, reached.connection, session.job, *reached[1:])

    async def _wake(self, session: Session) -> Session:
        self._expect_runner(session.runner)
        return await self._to_its_end(self._woken(session))

    async def _woken(self, session: Session) -> Session:
        job = self.job_for(session, resume=True)
        woken, _ = await asyncio.gather(
            self._sessions.wake(session.id, job, now=self._clock.now_ms()), self._leases.offer_now(job.caps)
        )
        if woken is None:
            raise gone(await self._sessions.find(session.id) or session)
        self._remember(woken)
        if self._leases.reach(woken.job) is None:
            self._wakeups.notify(channels.READY)
        return woken

    async def _arrival(self, job: JobId, seconds: float) -> None:
        """Wait until a runner is offered the job or comes back with it, but no longer than `seconds`."""
        if self._leases.reach(job) is None:
            await self._news(job, seconds)

    async def departed(self, session: Session) -> None:
        """Wait until it is known here that a life has ended of which its runner says so, but not for long."""
        if self._leases.reach(session.job) is not None:
            await self._news(session.job, self._patience.linking)
        self.forget(session.id)

    async def _news(self, job: JobId, seconds: float) -> None:
        """Wait until a job is placed or over."""
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals[job].append(arrived)
        try:
            await asyncio.wait([arrived], timeout=seconds)
        finally:
            waiting = self._arrivals[job]
            waiting.remove(arrived)
            if not waiting:
                del self._arrivals[job]

    def _expect_runner(self, runner: RunnerId | None) -> None:
        reason = self._leases.refusal(caps_of(runner))
        if reason is None:
            return
        if reason:
            raise Unavailable(
                reason, hint="Run `clawplane selftest` and `clawplane doctor` on that host, or use another runner."
            )
        if runner is None:
            raise Unavailable("No runner that holds sessions is connected.", hint="Start one with `clawplane runner`.")
        raise Unavailable(
            f"The runner {runner}, which has this session's files, is not connected.",
            hint="Start that runner again, or create another session.",
        )

    def _out_of_reach(self, session: Session) -> Unavailable:
        if session.state is SessionState.CREATING:
            return Unavailable(
                f"No runner had room for the session {session.id} within {self._patience.placing:g} s.",
                hint="Delete sessions that nobody needs, or start another runner, and try again.",
            )
        return Unavailable(
            f"The link to the session's runner {session.runner} is down.",
            hint="Try again in a moment; if the runner does not come back, the session wakes without its memory.",
        )

    # SessionWatch

    def placed(self, session: str, job: JobId) -> None:
        """Wake whoever waits for this job."""
        for arrived in self._arrivals.get(job, ()):
            if not arrived.done():
                arrived.set_result(None)

    def confirmed(self, session: str, job: JobId, runner: RunnerId) -> None:
        """Note that it runs, and where."""
        known = self._known.get(session)
        if known is not None and known.job == job and known.state is SessionState.CREATING:
            self._remember(msgspec.structs.replace(known, state=SessionState.RUNNING, runner=runner))

    def noted(self, session: str, job: JobId, state: LiveState) -> None:
        """Note how it stands; keep in the store what would matter to a reader."""
        first = session not in self._live
        self._live[session] = state
        known = self._known.get(session)
        if known is not None and known.job == job:
            expires_at = (known.options.expires_after and state.expires_at) or known.expires_at
            moved = first or known.state is not state.state or _moved(known.expires_at, expires_at)
            self._remember(
                msgspec.structs.replace(known, state=state.state, sleeps_at=state.sleeps_at, expires_at=expires_at)
            )
            if not moved:
                return
        self.chronicle.note(session, job, state, self._clock.now_ms())

    async def ending(self, session: str) -> None:
        """Let the store know first what its runner said before."""
        await self.chronicle.settle(session)

    def ended(self, session: str, job: JobId) -> None:
        """Forget it: the store knows better."""
        self.forget(session)
        self.placed(session, job)
        self._wakeups.notify(channels.EVENTS)

    def linked(self, runner: RunnerId) -> None:
        """Let a runner delete what it still has of sessions that ended while it was away."""
        self.spawn(self.sweep(runner))

    async def sweep(self, runner: RunnerId) -> None:
        """Ask a runner to delete what it has of ended sessions."""
        done = []
        for session_id in await self._sessions.litter(runner):
            connection = self._leases.connection_to(runner)
            if connection is None:
                break
            await self.forget_at_runner(connection, session_id)
            done.append(session_id)
        if done:
            await self._sessions.swept(runner, done)

    @staticmethod
    async def forget_at_runner(connection: RunnerConnection, session_id: str) -> None:
        """Ask a runner to delete what it has of one session."""
        await connection.ask(JobId(0), 0, "forget_session", _encode(ForgetSession(session=session_id))).answer()

    # tasks

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside whoever caused it."""
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _to_its_end(self, work: Coroutine[Any, Any, Session]) -> Session:
        """Do something whole, even if who asked leaves: an offer that is stored and never sent holds a job back."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Abandon what was spawned, and store what is to be stored."""
        self.underway.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.chronicle.settle()

    def _remember(self, session: Session) -> None:
        if session.state is SessionState.ENDED:
            self.forget(session.id)
            return
        self._known[session.id] = session
        self._known.move_to_end(session.id)
        while len(self._known) > _REMEMBERED:
            oldest, _ = self._known.popitem(last=False)
            self._live.pop(oldest, None)


def gone(session: Session) -> Conflict:
    """Return the error of whoever asks a session that has ended."""
    when = datetime.fromtimestamp((session.ended_at or 0) / 1000, UTC)
    return Conflict(
        f"The session {session.id} ended at {when:%Y-%m-%d %H:%M:%S} UTC, because: "
        f"{session.end_reason or 'it was deleted.'}",
        hint="Create another session, or leave `session_id` out.",
    )


def _moved(before: int | None, after: int | None) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) > _MATERIAL_MS


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except ClawplaneError as error:
        _log.warning("beside a session: %s", error.message)
