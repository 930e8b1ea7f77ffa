"""What happens to sessions when their jobs are confirmed, queued again, or ended.

A session outlives its job: one whose runner saved it, or was lost, sleeps until the next exec gives it a new job on the
runner that has its files. Only a session that was deleted, has expired, or could never be started has ended with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.ids import JobId
from clawplane.domain.runs import EndedRun
from clawplane.domain.session_rules import CLOSED, EXPIRED, LOST, SAVED
from clawplane.domain.sessions import SessionState
from clawplane.store.database import Transaction
from clawplane.store.endings import Ending, Retry
from clawplane.store.events import NewEvent, append_events
from clawplane.store.leases import id_list

_LOSS = "Its memory is lost, its files are kept"


class SessionEnd(NamedTuple):
    """A session that ends, and why."""

    id: str
    owner: str
    workspace: str | None
    reason: str
    now: int


class _Place(msgspec.Struct, gc=False):
    """A session as a transaction finds it by its job; `holder` has the lease, if there still is one."""

    job: JobId
    id: str
    state: str
    runner: str | None
    owner: str
    workspace: str | None
    lived: int
    exec_count: int
    holder: str | None


async def _places(tx: Transaction, jobs: Sequence[JobId]) -> list[_Place]:
    rows = await tx.fetch("sessions_of_jobs", {"jobs": id_list(jobs)})
    return [_Place(*row) for row in rows]


class SessionConsequences:
    """The meaning of jobs of kind `session`."""

    async def confirmed(self, tx: Transaction, jobs: Sequence[JobId], now: int) -> None:
        """Let the sessions run, where their runner is."""
        places = [place for place in await _places(tx, jobs) if place.state != SessionState.ENDED]
        running = SessionState.RUNNING.value
        await tx.many("place_session", [(running, place.holder, place.id) for place in places])
        named = [(place.holder, place.owner, place.workspace) for place in places if place.workspace is not None]
        await tx.many("place_workspace", named)
        await append_events(
            tx, [NewEvent(now, "session.running", place.id, {"runner": place.holder}) for place in places]
        )

    async def retried(self, tx: Transaction, retries: Sequence[Retry]) -> None:
        """Let the sessions wait again."""
        found = await _places(tx, [retry.job for retry in retries])
        places = [place for place in found if place.state != SessionState.ENDED]
        await tx.many("restart_session", [(place.id,) for place in places])

    async def ended(self, tx: Transaction, endings: Sequence[Ending]) -> dict[JobId, EndedRun]:
        """Let the sessions sleep or end; no run ends with them."""
        by_job = {ending.job: ending for ending in endings}
        for place in await _places(tx, list(by_job)):
            ending = by_job[place.job]
            if place.state == SessionState.ENDED:
                await _leave_litter(tx, place, ending)
            elif _sleeps(place, ending):
                reason = _why_asleep(ending)
                # what never lived has left nothing anywhere, but its workspace may be there
                runner = place.runner if place.lived or place.workspace is not None else None
                await tx.execute("sleep_session", {"reason": reason, "runner": runner, "id": place.id})
                await append_events(tx, [NewEvent(ending.at, "session.sleeping", place.id, {"reason": reason})])
            else:
                end = SessionEnd(place.id, place.owner, place.workspace, _why_ended(ending), ending.at)
                await end_session(tx, end)
        return {}


async def _leave_litter(tx: Transaction, place: _Place, ending: Ending) -> None:
    """Remember that the runner of a session that was deleted has never said that it cleared it away."""
    if place.runner is not None and ending.outcome.reason in (LOST, "setup", "timeout"):
        await tx.execute("insert_litter", {"runner": place.runner, "session": place.id})


async def end_session(tx: Transaction, end: SessionEnd) -> None:
    """Set a session ended; a workspace that was never made is forgotten with it."""
    await tx.execute("end_session", {"now": end.now, "reason": end.reason, "id": end.id})
    await append_events(tx, [NewEvent(end.now, "session.ended", end.id, {"reason": end.reason})])
    if end.workspace is not None:
        named = {"owner": end.owner, "name": end.workspace}
        await tx.execute("use_workspace", {"now": end.now, **named})
        if not await tx.fetch("sessions_of_workspace", {"owner": end.owner, "workspace": end.workspace}):
            await tx.execute("drop_unplaced_workspace", named)


def _sleeps(place: _Place, ending: Ending) -> bool:
    if ending.aborted:
        return False
    reason = ending.outcome.reason
    if reason in (CLOSED, EXPIRED):
        return False
    # whatever else took a session down, its files are still where they were
    return reason in (SAVED, LOST) or bool(place.lived)


def _why_asleep(ending: Ending) -> str:
    outcome = ending.outcome
    if outcome.reason == SAVED:
        return outcome.message or "It was saved to disk."
    return f"{_LOSS}: {outcome.message or outcome.reason}"


def _why_ended(ending: Ending) -> str:
    outcome = ending.outcome
    if ending.aborted:
        return outcome.message or "It was cancelled."
    if outcome.reason == EXPIRED:
        return outcome.message or "It was idle for too long."
    if outcome.reason == CLOSED:
        return outcome.message or "It was closed."
    return f"It could not be started: {outcome.message or outcome.reason}"
