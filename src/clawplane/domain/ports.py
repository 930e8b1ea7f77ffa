"""The small ports between the flows and the world. Each has one conformance suite in tests/conformance.

Every method that changes something returns after the change is durable. Methods take the time as an argument (`now`,
milliseconds) so that expiry can be tested without waiting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from clawplane.domain.access import ApiKey
from clawplane.domain.batches import Batch, LogLine, StoredLogLine, StoredRow
from clawplane.domain.events import Event
from clawplane.domain.ids import JobId, RunnerId, RunSlug, WorkerSlug
from clawplane.domain.leases import Attempt, Claim, Finish, LeaseView, LostLease, NewJob, Offer, RunnerRecord, Want
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.runs import EndedRun, HeaderItem, NewRun, Run, RunFilter, Subtask
from clawplane.domain.session_ports import Conversation
from clawplane.domain.sessions import LiveState
from clawplane.domain.workers import Environment, Worker, WorkerVersion


class FinishResult(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an end was accepted, and what ended with it. A stale or repeated end is not accepted.

    `repeated` tells a runner that reconnects that this very end (same job, fence and nonce) is stored already.
    """

    accepted: bool
    repeated: bool = False
    run: EndedRun | None = None


class HeartbeatResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner has to hear: leases it no longer holds, and cancels (job, fence, reason)."""

    lost: tuple[tuple[JobId, int], ...] = ()
    cancels: tuple[tuple[JobId, int, str], ...] = ()


class AppendResult(msgspec.Struct, frozen=True, kw_only=True):
    """How far an attempt's batches are stored; `stale` when the fence is not the lease's own."""

    stored_up_to: int
    stale: bool = False


class Expired(msgspec.Struct, frozen=True, kw_only=True):
    """What time has ended: leases taken back, and runs that ended because no attempt is left."""

    lost: tuple[LostLease, ...] = ()
    runs: tuple[EndedRun, ...] = ()


class QueueDepth(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs wait, are offered and run, by capability."""

    ready: dict[str, int]
    offered: dict[str, int]
    leased: dict[str, int]


class Queue(Protocol):
    """The one queue and the one lease. Every consequence for runs, subtasks and versions is in the same transaction."""

    async def submit(self, jobs: Sequence[NewJob]) -> None:
        """Queue `jobs`; all or none."""
        ...

    async def offer(self, wants: Sequence[Want], *, now: int, offer_ms: int) -> list[Offer]:
        """Take the earliest ready jobs for `wants` in one statement and offer each to its runner with a new fence."""
        ...

    async def confirm(self, claim: Claim, runner: RunnerId, *, now: int) -> bool:
        """Turn an offer into a lease; False when it is not this runner's, expired, or cancelled meanwhile.

        A subtask becomes running, and its run with the first. Rows and logs' batch numbers of an earlier attempt are
        dropped with that attempt's rows. Confirming twice with the same claim is accepted.
        """
        ...

    async def decline(self, claim: Claim, runner: RunnerId, *, now: int, delay_ms: int = 0) -> None:
        """Give an unconfirmed offer back without using up an attempt; it is ready again after `delay_ms`."""
        ...

    async def finish(self, finish: Finish, *, now: int) -> FinishResult:
        """End an attempt once; the first accepted end wins. An outcome of a subtask ends it, and the run with the last.

        A lease that was cancelled ends its subtask as aborted whatever the outcome says. An outcome whose reason is
        `setup` (the runner could not start it) goes back to the queue while attempts are left.
        """
        ...

    async def heartbeat(self, runner: RunnerId, held: Sequence[tuple[JobId, int]], *, now: int) -> HeartbeatResult:
        """Note that a runner lives and holds these leases (job, fence)."""
        ...

    async def cancel(self, jobs: Sequence[JobId], reason: str) -> list[LeaseView]:
        """Mark leases for cancelling and return them; jobs still waiting are removed."""
        ...

    async def expire(self, *, now: int, silence_ms: int) -> Expired:
        """Take back offers whose time is over, leases of silent runners, leases past their deadline.

        An expired offer uses up no attempt. A lost lease is queued again at its old place while attempts are left, else
        its subtask or build fails.
        """
        ...

    async def next_expiry(self, *, silence_ms: int) -> int | None:
        """Return when `expire` has something to do at the earliest, or None."""
        ...

    async def leases(self, runner: RunnerId | None = None) -> list[LeaseView]:
        """Return the leases of one runner or of all."""
        ...

    async def attempts(self, job: JobId) -> list[Attempt]:
        """Return a job's custody timeline, oldest first."""
        ...

    async def depth(self) -> QueueDepth:
        """Return the counts of waiting, offered and leased jobs without scanning the history."""
        ...

    async def highest_job(self) -> int:
        """Return the highest job id ever stored, 0 when none."""
        ...

    async def upsert_runner(self, runner: RunnerRecord) -> None:
        """Note a runner's connection, slots and state."""
        ...

    async def runners(self) -> list[RunnerRecord]:
        """Return every runner ever heard of, newest first."""
        ...


class Workers(Protocol):
    """Workers and versions."""

    async def create(self, worker: Worker) -> None:
        """Store a new Worker; raises Conflict when owner~name exists."""
        ...

    async def find(self, worker_id: str) -> Worker | None:
        """Return the Worker with this slug or `owner~name` path (ASCII case-sensitive), or None.

        Removed ones are absent.
        """
        ...

    async def page(self, *, owner: str | None, keyword: str, limit: int, offset: int) -> tuple[int, list[Worker]]:
        """Return the count and one page, newest first; `keyword` matches title, slug and path; `offset` in rows."""
        ...

    async def update(self, worker: Worker) -> None:
        """Replace title, description, categories and icon."""
        ...

    async def remove(self, slug: WorkerSlug, *, now: int) -> None:
        """Hide a Worker from every listing and look-up; its runs stay readable."""
        ...

    async def add_version(self, version: WorkerVersion, job: NewJob | None) -> None:
        """Store a version with its build job in one transaction, or replace one of the same number that failed.

        Raises Conflict when the version exists and is ready or building.
        """
        ...

    async def version(self, slug: WorkerSlug, version: str) -> WorkerVersion | None:
        """Return one version."""
        ...

    async def versions(self, slug: WorkerSlug) -> list[WorkerVersion]:
        """Return all versions, newest first."""
        ...

    async def finish_build(
        self,
        finish: Finish,
        *,
        status: VersionStatus,
        environment: Environment | None,
        error: str,
        now: int,
    ) -> FinishResult:
        """End a build's attempt and settle its version in one transaction; a ready version becomes the current one."""
        ...


class Runs(Protocol):
    """Runs, subtasks, rows and logs."""

    async def start(self, new: NewRun, *, max_running: int) -> None:
        """Store a run with its subtasks and queue them; raises ConcurrencyLimited at `max_running` running runs."""
        ...

    async def find(self, slug: str) -> Run | None:
        """Return one run."""
        ...

    async def last(self, *, owner: str, worker: WorkerSlug | None) -> Run | None:
        """Return the most recently created run of an owner, or of one Worker by that owner."""
        ...

    async def page(self, filter_: RunFilter, *, limit: int, offset: int) -> tuple[int, list[Run]]:
        """Return the count and one page of runs, newest first; `offset` in rows."""
        ...

    async def subtasks(self, slug: RunSlug) -> list[Subtask]:
        """Return a run's subtasks in order."""
        ...

    async def abort(self, slug: RunSlug, *, now: int) -> list[LeaseView] | None:
        """Set a run to aborting, drop its waiting subtasks, mark its leases for cancelling and return them.

        None when the run has ended or is being aborted. `finished_at` is set now when nothing runs, else with the
        last end.
        """
        ...

    async def append(self, batch: Batch) -> AppendResult:
        """Store a batch once, fenced, with the attempt's batch number in the same transaction."""
        ...

    async def append_system_log(self, subject: str, group: str, lines: Sequence[LogLine]) -> None:
        """Append platform lines to a run's or a build's log."""
        ...

    async def rows(self, slug: RunSlug, *, limit: int, offset: int) -> tuple[int, list[StoredRow]]:
        """Return the visible count and one page of rows in order of arrival; `offset` in rows.

        Rows of failed subtasks of a succeeded split run are not visible.
        """
        ...

    def stream_rows(self, slug: RunSlug, *, batch: int = 2000) -> AsyncIterator[list[bytes]]:
        """Yield the bodies of all visible rows in order, in lists of up to `batch`, in bounded memory."""
        ...

    async def columns(self, slug: RunSlug) -> list[HeaderItem]:
        """Return the union of keys over the visible rows in order of first sight."""
        ...

    async def log_tail(self, subject: str, *, limit: int) -> list[StoredLogLine]:
        """Return the newest entries, oldest first."""
        ...

    async def log_after(self, subject: str, seq: int, *, limit: int) -> list[StoredLogLine]:
        """Return entries behind `seq`, oldest first."""
        ...


class Keys(Protocol):
    """API keys, kept as hashes."""

    async def add(self, key: ApiKey) -> None:
        """Store a key; raises Conflict when its digest is there."""
        ...

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """Return the key with this digest, revoked or not."""
        ...

    async def all(self) -> list[ApiKey]:
        """Return all keys, newest first."""
        ...

    async def revoke(self, key_id: str, *, now: int) -> bool:
        """Revoke a key; False when there is none with this id."""
        ...

    async def setting(self, name: str) -> str | None:
        """Return a value that this installation keeps, such as the link-signing secret."""
        ...

    async def set_setting_once(self, name: str, value: str) -> str:
        """Keep `value` unless one is there; return the one that is kept."""
        ...


class Events(Protocol):
    """The append-only event log; the store appends run and version transitions itself, in their transaction."""

    async def after(self, seq: int, *, subject: str | None, limit: int) -> list[Event]:
        """Return events behind `seq`, oldest first."""
        ...


class Blobs(Protocol):
    """Immutable files by key: packages, locks."""

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a blob durably (file and directory synced before the name appears) and return its size.

        A key that exists keeps its content. Raises StoreFull when the disk is full; nothing half is left.
        """
        ...

    async def size(self, key: str) -> int | None:
        """Return a blob's size in bytes, or None."""
        ...

    def read(self, key: str, *, chunk: int = 1 << 18) -> AsyncIterator[bytes]:
        """Yield a blob's content; raises NotFound."""
        ...

    async def delete(self, key: str) -> None:
        """Forget a blob; absent is fine."""
        ...


class RunnerConnection(Protocol):
    """The control plane's end of one runner's link; nothing here waits, frames are queued to be sent."""

    def ask(self, job: JobId, fence: int, method: str, body: bytes, *, quiet: bool = False) -> Conversation:
        """Ask a live session something (domain.asks.METHODS); job 0 asks the runner itself.

        A `quiet` question streams nothing: only its answer is wanted.
        """
        ...

    def over(self, job: JobId, fence: int, reason: str) -> None:
        """Answer what is still asked of a lease that is gone, with `reason`."""
        ...

    def offer(self, offer: Offer, offer_ms: int) -> None:
        """Send an offer."""
        ...

    def cancel(self, job: JobId, fence: int, reason: str) -> None:
        """Ask for a job to be stopped."""
        ...

    def drop(self, job: JobId, fence: int, reason: str) -> None:
        """Tell the runner that a lease is not its own."""
        ...

    def close(self, reason: str) -> None:
        """End the link; used when the same runner has connected again."""
        ...


class Dispatch(Protocol):
    """What runners say to the control plane; implemented by flows/leases, called by the link's server end."""

    async def connected(
        self, runner: RunnerRecord, held: Sequence[tuple[JobId, int]], connection: RunnerConnection
    ) -> list[tuple[JobId, int, int]]:
        """Greet a runner and return the leases it keeps as (job, fence, stored up to); cancels due follow at once."""
        ...

    async def heartbeat(self, runner: RunnerId, held: Sequence[tuple[JobId, int]], free: dict[str, int]) -> None:
        """Note a sign of life; drops and cancels go out on the connection."""
        ...

    async def free(self, runner: RunnerId, free: dict[str, int], unable: dict[str, str] | None = None) -> None:
        """Note free slots by capability; offers follow when jobs wait.

        `unable` says why announced capabilities are not offered now; None leaves what was said before.
        """
        ...

    async def confirm(self, runner: RunnerId, claim: Claim) -> bool:
        """Take an offer; False means drop it."""
        ...

    async def decline(self, runner: RunnerId, claim: Claim, reason: str) -> None:
        """Give an offer back."""
        ...

    async def ship(self, runner: RunnerId, batch: Batch) -> AppendResult:
        """Store a batch."""
        ...

    async def end(self, runner: RunnerId, finish: Finish) -> FinishResult:
        """Store an end."""
        ...

    async def noted(self, runner: RunnerId, job: JobId, fence: int, state: LiveState) -> None:
        """Note how a session stands; a stale word is ignored."""
        ...

    async def draining(self, runner: RunnerId) -> None:
        """Offer this runner nothing more."""
        ...

    async def disconnected(self, runner: RunnerId, connection: RunnerConnection) -> None:
        """Note that a link closed; leases stay until silence ends them. A connection already replaced is ignored."""
        ...
