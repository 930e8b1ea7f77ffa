"""Keep sessions, what was executed in them, and named workspaces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from clawplane.domain.errors import ClawplaneError, ConcurrencyLimited, Conflict, Unavailable
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import NewJob
from clawplane.domain.session_history import KEPT, RUNNING, ExecRecord, Workspace, record_of_stop
from clawplane.domain.session_ports import EndedSession
from clawplane.domain.session_rules import caps_of
from clawplane.domain.sessions import LiveState, Session, SessionOptions, SessionState
from clawplane.store.database import Database, Row, Transaction, first
from clawplane.store.enqueue import enqueue
from clawplane.store.events import NewEvent, append_events
from clawplane.store.lease_ends import Cancelled, cancel_jobs
from clawplane.store.leases import id_list, leases_of
from clawplane.store.session_ends import SessionEnd, end_session

_to_json = msgspec.json.Encoder().encode
_options = msgspec.json.Decoder(SessionOptions).decode
_pack = msgspec.msgpack.Encoder().encode
_record = msgspec.msgpack.Decoder(ExecRecord).decode
_STOPPED_AT_ONCE: Final = 500


class _Create(NamedTuple):
    session: Session
    job: NewJob
    max_live: int


class _Note(NamedTuple):
    session_id: str
    job: JobId
    state: LiveState
    now: int


class _Wake(NamedTuple):
    session_id: str
    job: NewJob
    now: int


class _End(NamedTuple):
    session_id: str
    reason: str
    now: int


class _SetEnd(NamedTuple):
    session_id: str
    ends_at: int | None


class _Use(NamedTuple):
    record: ExecRecord
    now: int


class _Stop(NamedTuple):
    now: int


class _Old(NamedTuple):
    sessions: tuple[str, ...]
    before: int


class _OfOwner(NamedTuple):
    owner: str
    name: str


class _Swept(NamedTuple):
    runner: RunnerId
    sessions: tuple[str, ...]


async def create(tx: Transaction, items: Sequence[_Create]) -> list[Session | ClawplaneError]:
    """Store sessions and queue their jobs; an owner's sessions are counted once, however many are in the batch."""
    live: dict[str, int] = {}
    results: list[Session | ClawplaneError] = []
    for session, job, max_live in items:
        if session.owner not in live:
            ((live[session.owner],),) = await tx.fetch("count_live_sessions", {"owner": session.owner})
        result = await _create(tx, session, job, live[session.owner], max_live)
        live[session.owner] += isinstance(result, Session) and result.id == session.id
        results.append(result)
    return results


async def _create(tx: Transaction, session: Session, job: NewJob, live: int, max_live: int) -> Session | ClawplaneError:
    name, workspace = session.options.name, session.options.workspace
    if name and (row := await first(tx.fetch("live_session_of_name", {"owner": session.owner, "name": name}))):
        return _session(row)
    if live >= max_live:
        return ConcurrencyLimited(
            f"You have {live} sessions, which is the limit.", hint="Delete some with DELETE /v1/sessions/{id}."
        )
    if workspace is not None:
        found = await first(tx.fetch("find_workspace", {"owner": session.owner, "name": workspace}))
        if found is not None and found[0] is None:
            return Unavailable(f"workspace: {workspace!r} is being made by another session.")
        if found is not None:
            runner = RunnerId(found[0])
            session = msgspec.structs.replace(session, runner=runner)
            job = msgspec.structs.replace(job, caps=caps_of(runner))
        else:
            values = {"owner": session.owner, "name": workspace, "runner": None, "now": session.created_at}
            await tx.execute("insert_workspace", values)
    await tx.execute("insert_session", _values(session))
    await enqueue(tx, [job])
    await append_events(tx, [NewEvent(session.created_at, "session.creating", session.id, {})])
    return session


async def note(tx: Transaction, items: Sequence[_Note]) -> list[None]:
    """Keep what runners say of sessions."""
    for session_id, job, state, now in items:
        row = await first(tx.fetch("session_place", {"id": session_id}))
        if row is None or row[0] == SessionState.ENDED or row[1] != job or state.state is SessionState.ENDED:
            continue
        values = {"state": state.state.value, "sleeps_at": state.sleeps_at, "expires_at": state.expires_at}
        await tx.execute("note_session", {**values, "id": session_id})
        if row[0] != state.state:
            await append_events(tx, [NewEvent(now, f"session.{state.state.value}", session_id, {})])
    return [None] * len(items)


async def wake(tx: Transaction, items: Sequence[_Wake]) -> list[Session | None]:
    """Give sleeping sessions new jobs."""
    return [await _wake(tx, *item) for item in items]


async def _wake(tx: Transaction, session_id: str, job: NewJob, now: int) -> Session | None:
    row = await first(tx.fetch("find_session", {"id": session_id}))
    if row is None:
        return None
    session = _session(row)
    if session.state is SessionState.ENDED:
        return None
    if session.state is not SessionState.SLEEPING or await leases_of(tx, [session.job]):
        return session
    if await tx.fetch("waiting_jobs", {"jobs": id_list([session.job])}):
        return session
    await tx.execute("wake_session", {"job": job.id, "now": now, "id": session_id})
    await enqueue(tx, [msgspec.structs.replace(job, caps=caps_of(session.runner))])
    await append_events(tx, [NewEvent(now, "session.creating", session_id, {})])
    ((*after,),) = await tx.fetch("find_session", {"id": session_id})
    return _session(tuple(after))


async def end(tx: Transaction, items: Sequence[_End]) -> list[EndedSession | None]:
    """End sessions and cancel their jobs."""
    return [await _end(tx, *item) for item in items]


async def _end(tx: Transaction, session_id: str, reason: str, now: int) -> EndedSession | None:
    row = await first(tx.fetch("session_place", {"id": session_id}))
    if row is None or row[0] == SessionState.ENDED:
        return None
    _, job, runner, workspace, lived, owner = row
    # first the session, so that the end of its job finds it ended
    await end_session(tx, SessionEnd(session_id, owner, workspace, reason, now))
    leases = await cancel_jobs(tx, Cancelled((job,), reason, now))
    if lived and runner is not None and not any(lease.confirmed for lease in leases):
        await tx.execute("insert_litter", {"runner": runner, "session": session_id})
    ((*after,),) = await tx.fetch("find_session", {"id": session_id})
    return EndedSession(session=_session(tuple(after)), leases=tuple(leases))


async def set_end(tx: Transaction, items: Sequence[_SetEnd]) -> list[None]:
    """Move fixed ends of sessions."""
    await tx.many("set_session_end", [(item.ends_at, item.session_id) for item in items])
    return [None] * len(items)


async def record(tx: Transaction, items: Sequence[_Use]) -> list[None]:
    """Put execs into histories; one look at a session's history however many of its execs are in the batch."""
    by_session: dict[str, list[_Use]] = defaultdict(list)
    for item in items:
        by_session[item.record.session].append(item)
    for session_id, uses in by_session.items():
        running: dict[str, int] = dict(await tx.fetch("ends_of_history", {"session": session_id}))
        last = running.pop("")
        rows: dict[int, tuple[str, int, str | None, bytes]] = {}
        for record_, _ in uses:
            seq = running.pop(record_.id, last + 1)
            last = max(last, seq)
            runs = record_.status == RUNNING
            if runs:
                running[record_.id] = seq
            rows[seq] = (session_id, seq, record_.id if runs else None, _pack(record_))
        await tx.many("put_exec", list(rows.values()))
        await tx.execute("prune_execs", {"session": session_id, "seq": last - KEPT})
        ended = [now for record_, now in uses if record_.status != RUNNING]
        if ended:
            await _use(tx, session_id, max(ended), len(ended))
    return [None] * len(items)


async def stop_running(tx: Transaction, items: Sequence[_Stop]) -> list[bool]:
    """End some of the records that run; True when there may be more of them."""
    return [await _stop_running(tx, item.now) for item in items]


async def _stop_running(tx: Transaction, now: int) -> bool:
    rows = await tx.fetch("running_execs", {"limit": _STOPPED_AT_ONCE})
    records = [_record(body) for _, _, body in rows]
    ended = [_pack(record_of_stop(each, now=now)) for each in records]
    await tx.many("put_exec", [(session, seq, None, body) for (session, seq, _), body in zip(rows, ended, strict=True)])
    for each in records:  # when it was last used is not known; this process's start is no use
        await _use(tx, each.session, each.started_at, 1)
    return len(rows) == _STOPPED_AT_ONCE


async def _use(tx: Transaction, session_id: str, now: int, count: int) -> None:
    row = await first(tx.fetch("find_session", {"id": session_id}))
    if row is not None:
        expires_at = now + _session(row).options.expires_after * 1000
        await tx.execute("use_session", {"now": now, "count": count, "expires_at": expires_at, "id": session_id})


async def prune_history(tx: Transaction, items: Sequence[_Old]) -> list[None]:
    """Forget the execs of sessions, unless one was used meanwhile."""
    await tx.many("prune_old_execs", [(session, item.before) for item in items for session in item.sessions])
    return [None] * len(items)


async def remove_workspace(tx: Transaction, items: Sequence[_OfOwner]) -> list[Workspace | ClawplaneError | None]:
    """Forget workspaces that nobody uses."""
    results: list[Workspace | ClawplaneError | None] = []
    for owner, name in items:
        found = next((item for item in await _workspaces(tx, owner) if item.name == name), None)
        if found is not None and found.sessions:
            results.append(
                Conflict(
                    f"workspace: {name!r} is attached to the session {found.sessions[0]}.",
                    hint="Delete the session first.",
                )
            )
            continue
        if found is not None:
            await tx.execute("delete_workspace", {"owner": owner, "name": name})
        results.append(found)
    return results


async def swept(tx: Transaction, items: Sequence[_Swept]) -> list[None]:
    """Forget what runners had to delete."""
    await tx.many("delete_litter", [(item.runner, session) for item in items for session in item.sessions])
    return [None] * len(items)


async def _workspaces(tx: Transaction, owner: str) -> list[Workspace]:
    found: dict[str, Workspace] = {}
    for name, runner, created_at, used_at, session in await tx.fetch("workspaces_of_owner", {"owner": owner}):
        known = found.get(name)
        sessions = () if session is None else (*(known.sessions if known else ()), session)
        found[name] = Workspace(
            owner=owner, name=name, runner=runner, created_at=created_at, used_at=used_at, sessions=sessions
        )
    return list(found.values())


class SqlSessions:
    """Sessions, execs and workspaces; see session_ports.Sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, session: Session, job: NewJob, *, max_live: int) -> Session:
        """Store a session with its job, or return the live one of the same name."""
        return await self._database.write(create, _Create(session, job, max_live))

    async def find(self, session_id: str) -> Session | None:
        """Return one session."""
        row = await first(self._database.glance("find_session", {"id": session_id}))
        return None if row is None else _session(row)

    async def page(
        self, *, owner: str | None, state: SessionState | None, ended: bool, name: str, limit: int, offset: int
    ) -> tuple[int, list[Session]]:
        """Return the count and one page, newest first."""
        wanted = {"owner": owner, "state": None if state is None else state.value, "name": name, "ended": ended}

        async def view(tx: Transaction) -> tuple[int, list[Session]]:
            ((count,),) = await tx.fetch("count_sessions", wanted)
            rows = await tx.fetch("page_sessions", {**wanted, "limit": limit, "offset": offset})
            return count, [_session(row) for row in rows]

        return await self._database.read(view)

    async def note(self, session_id: str, job: JobId, state: LiveState, *, now: int) -> None:
        """Keep what its runner says of a session."""
        await self._database.write(note, _Note(session_id, job, state, now))

    async def wake(self, session_id: str, job: NewJob, *, now: int) -> Session | None:
        """Give a session that sleeps without a lease a new job; None when it has ended."""
        return await self._database.write(wake, _Wake(session_id, job, now))

    async def end(self, session_id: str, reason: str, *, now: int) -> EndedSession | None:
        """End a session and cancel its job; None when it has ended already or never was."""
        return await self._database.write(end, _End(session_id, reason, now))

    async def set_end(self, session_id: str, ends_at: int | None) -> None:
        """Let a session end at a fixed time, used or not; None gives it back to its idle time."""
        await self._database.write(set_end, _SetEnd(session_id, ends_at))

    async def record(self, record_: ExecRecord, *, now: int) -> None:
        """Put an exec into its session's history, in the place of what was said of it while it ran."""
        weight = len(record_.code) + len(record_.stdout) + len(record_.stderr)
        await self._database.write(record, _Use(record_, now), weight=weight)

    async def stop_running(self, *, now: int) -> None:
        """Let every record that runs end as unknown."""
        while await self._database.write(stop_running, _Stop(now)):
            pass

    async def execs(self, session_id: str, *, limit: int, offset: int) -> tuple[int, list[ExecRecord]]:
        """Return how many execs are kept, and one page of them, newest first."""

        async def view(tx: Transaction) -> tuple[int, list[ExecRecord]]:
            ((count,),) = await tx.fetch("count_execs", {"session": session_id})
            rows = await tx.fetch("page_execs", {"session": session_id, "limit": limit, "offset": offset})
            return count, [_record(body) for (body,) in rows]

        return await self._database.read(view)

    async def prune_history(self, *, used_before: int, limit: int = 100) -> bool:
        """Forget the execs of some sessions that nobody has used since; True when there are more of them."""

        async def view(tx: Transaction) -> list[str]:
            rows = await tx.fetch("sessions_with_old_execs", {"before": used_before, "limit": limit})
            return [session for (session,) in rows]

        found = await self._database.read(view)
        if found:
            await self._database.write(prune_history, _Old(tuple(found), used_before))
        return len(found) == limit

    async def expired(self, *, now: int, limit: int = 100) -> list[Session]:
        """Return sessions that have not ended and whose time is over."""

        async def view(tx: Transaction) -> list[Session]:
            return [_session(row) for row in await tx.fetch("expired_sessions", {"now": now, "limit": limit})]

        return await self._database.read(view)

    async def next_expiry(self) -> int | None:
        """Return when `expired` has something to tell at the earliest, or None."""

        async def view(tx: Transaction) -> int | None:
            ((at,),) = await tx.fetch("next_session_expiry")
            return None if at is None else int(at)

        return await self._database.read(view)

    async def workspaces(self, owner: str) -> list[Workspace]:
        """Return an owner's named workspaces, by name."""
        return await self._database.read(lambda tx: _workspaces(tx, owner))

    async def remove_workspace(self, owner: str, name: str) -> Workspace | None:
        """Forget a workspace; raises Conflict while a session is attached."""
        return await self._database.write(remove_workspace, _OfOwner(owner, name))

    async def litter(self, runner: RunnerId) -> list[str]:
        """Return the ended sessions of which this runner still has something on its disk."""

        async def view(tx: Transaction) -> list[str]:
            return [session for (session,) in await tx.fetch("litter_of_runner", {"runner": runner})]

        return await self._database.read(view)

    async def swept(self, runner: RunnerId, sessions: Sequence[str]) -> None:
        """Note that the runner has deleted what it had of these sessions."""
        await self._database.write(swept, _Swept(runner, tuple(sessions)))


def _values(session: Session) -> dict[str, object]:
    values = msgspec.structs.asdict(session)
    values["state"] = session.state.value
    values["options"] = _to_json(session.options).decode()
    return values | {"name": session.options.name, "workspace": session.options.workspace}


def _session(row: Row) -> Session:
    (id_, owner, state, options, job, runner, created_at, used_at, sleeps_at, expires_at) = row[:10]
    (ended_at, end_reason, exec_count, lives, branch_of) = row[10:]
    return Session(
        id=id_,
        owner=owner,
        state=SessionState(state),
        options=_options(options),
        job=JobId(job),
        runner=None if runner is None else RunnerId(runner),
        created_at=created_at,
        used_at=used_at,
        sleeps_at=sleeps_at,
        expires_at=expires_at,
        ended_at=ended_at,
        end_reason=end_reason,
        exec_count=exec_count,
        lives=lives,
        branch_of=branch_of,
    )
