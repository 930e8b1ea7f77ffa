"""The ports of host tasks: where they, their results, conversations, trail and callbacks are kept. See ports.py.

Whatever changes something is durable when it returns. Times are arguments, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from clawplane.domain.host_tasks import (
    AgentSession,
    HostTask,
    NewParcel,
    NewTask,
    OnLoss,
    ParcelKind,
    Reach,
    StoredResult,
    TaskEvent,
    TaskId,
    TaskReport,
    TaskStatus,
    TaskType,
)
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, LeaseView


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was stored, or the one that the same idempotency key made before."""

    task: HostTask
    replayed: bool = False


class Poll(msgspec.Struct, frozen=True, kw_only=True):
    """A parked poll of the Task API that wants one task. `silence_ms` None: a runner that never sends heartbeats."""

    runner: RunnerId
    reach: Reach
    silence_ms: int | None = None
    server_delivers: bool = False
    """Whether the control plane sends the callback of what this poll is given; else the runner does."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was claimed by a poll: offered and confirmed in one transaction, with `task.started`."""

    task: HostTask
    fence: int
    callback_token: bytes | None
    """Sealed; the wire wants it in clear."""


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What a report did: `accepted` (first terminal), `repeated` (the same again), `conflict` (ignored), `unknown`."""

    outcome: Literal["accepted", "repeated", "conflict", "unknown"]
    task: TaskId | None = None
    leases: tuple[LeaseView, ...] = ()
    """Leases of this task that somebody else still holds: they are to be dropped."""


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list; empty values match everything."""

    owner: str | None = None
    status: TaskStatus | None = None
    type: TaskType | None = None
    session_id: str = ""
    runner: str = ""


class TaskCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts without scanning: tasks whose result was not consumed, by status, and results that wait."""

    by_status: dict[str, int]
    results: int

    @property
    def total(self) -> int:
        """Return how many tasks there are."""
        return sum(self.by_status.values())


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch finds: the state the Task API shows (None: unknown there), and whether a result waits."""

    status: TaskStatus | None
    ready: bool


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Why a pending task is not running; see flows/explain."""

    ahead: int
    """Tasks of its capability before it in the queue; counted up to 1000."""
    due_at: int | None
    session_head: TaskId | None
    caps: str


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long what is kept, in milliseconds; the Task API's own variables."""

    task_ms: int = 1_200_000
    result_ms: int = 1_800_000
    session_ms: int = 1_800_000
    grace_ms: int = 1_800_000
    """How long a consumed result stays readable by `peek`."""
    event_days: int = 14
    max_events: int = 2_000


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a polling runner's inventory: whether it counted, the number of the last that did, what is lost.

    One that does not count is old news: one with its number or a higher one was taken before.
    """

    taken: bool
    number: int
    lost: tuple[TaskId, ...] = ()


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What retention removed."""

    expired: tuple[TaskId, ...] = ()
    results: int = 0
    sessions: int = 0


class HostTasks(Protocol):
    """Host tasks over the one queue: every method that touches the queue does so in its own transaction."""

    async def submit(self, new: NewTask, *, now: int) -> Submitted:
        """Store a task with its job, `task.created` and its conversation's row (count + 1), all or nothing.

        Queued at once when it is due, approved and the head of its session. Raises Conflict when its idempotency key
        was used with another request.
        """
        ...

    async def claim(self, polls: Sequence[Poll], *, now: int) -> list[Claimed | None]:
        """Give each poll, in order, the first task it can be given, leased at once; None where there is none."""
        ...

    async def unclaim(self, task: TaskId, fence: int, *, now: int) -> bool:
        """Undo a claim whose answer could not be delivered: at its old place, no attempt used, `task.started` gone."""
        ...

    async def report(self, task: TaskId, report: TaskReport, *, now: int) -> Reported:
        """Let a report of the Task API's wire end a task, whoever holds it; the first terminal result wins.

        An unknown id keeps the result as an orphan. `metadata.sessionId` makes or touches that conversation's row.
        """
        ...

    async def late(self, claim: Claim, runner: RunnerId, result: bytes, *, now: int) -> Reported | None:
        """Let the end (msgpack of a TaskReport) of a linked runner count whose lease is gone; see `report`.

        None when this runner never had that lease, the job is no host task, or the result is none.
        """
        ...

    async def take_result(self, task: TaskId, *, now: int) -> StoredResult | None:
        """Consume a result with `task.reconciled`; None when there is none, or another took it."""
        ...

    async def put_back(self, task: TaskId) -> None:
        """Undo `take_result`, its event included: the answer could not be delivered."""
        ...

    async def result(self, task: TaskId) -> StoredResult | None:
        """Return a result, consumed or not, without consuming it."""
        ...

    async def find(self, task: TaskId) -> HostTask | None:
        """Return a task that is there for additive readers: also one whose result was consumed, within the grace."""
        ...

    async def outlook(self, task: TaskId) -> Outlook:
        """Return what a fetch of the Task API would find."""
        ...

    async def page(self, filter_: TaskFilter, *, limit: int, before: JobId | None) -> list[HostTask]:
        """Return tasks, newest first, before a job id."""
        ...

    async def cancel(self, task: TaskId, reason: str, *, now: int) -> tuple[HostTask, list[LeaseView]] | None:
        """End a task that waits, now; mark the lease of one that runs and return it. None when unknown or ended."""
        ...

    async def approve(self, task: TaskId, *, given: bool, by: str, now: int) -> HostTask | None:
        """Let a task start that waits for a yes, or fail it; None when it does not wait for one."""
        ...

    async def retry(
        self, task: TaskId, new_id: TaskId, new_job: JobId, *, now: int, questions: Sequence[NewParcel] = ()
    ) -> HostTask | None:
        """Submit an ended task's work again as a new task; None when it is unknown or has not ended."""
        ...

    async def waiting(self, task: TaskId) -> Waiting | None:
        """Return what `explain` needs of a pending task; None otherwise."""
        ...

    async def reopen(self, *, now: int) -> list[tuple[HostTask, OnLoss]]:
        """After a start: take back what polls without heartbeats held, by each task's policy, and return them."""
        ...

    async def lose(self, jobs: Sequence[tuple[JobId, int]], *, now: int) -> list[tuple[HostTask, OnLoss]]:
        """Take back leases (job, fence) whose runner says that it has them no more, by each task's policy."""
        ...

    async def take_stock(self, runner: RunnerId, number: int, held: Sequence[tuple[TaskId, int]], *, now: int) -> Stock:
        """Take back what a runner was given and does not name (task, fence), by each task's policy.

        Counts once per number, and only when the number is higher than that of any before.
        """
        ...

    async def counts(self) -> TaskCounts:
        """Return the counts of `/tasks/stats`."""
        ...

    async def waits(self) -> dict[str, tuple[int, int]]:
        """Return, per capability, how many wait and since when the oldest does; for metrics."""
        ...

    async def sweep(self, retention: Retention, *, now: int) -> Swept:
        """Remove what is older than it may be, with `task.expired`; bounded work per call."""
        ...


class AgentSessions(Protocol):
    """Conversations with agent CLIs."""

    async def page(self, *, cli_type: str, limit: int) -> list[AgentSession]:
        """Return conversations by last activity, newest first; `cli_type` "" means any."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Return active, oldestLastActivity, newestLastActivity and byType as `/sessions/stats` shows them."""
        ...

    async def key_of(self, cli_type: str, session_id: str) -> tuple[str, str | None]:
        """Return the canonical conversation of an id (a prefix, an API id or a provider id), and the provider's id."""
        ...

    async def bind(self, cli_type: str, session_id: str, provider_id: str, *, now: int) -> None:
        """Remember that two ids name one conversation; known as soon as the CLI has said its id."""
        ...


class TaskEvents(Protocol):
    """The trail of host tasks, bounded by age and number, in the order of its sequence."""

    async def append(self, event: TaskEvent) -> TaskEvent:
        """Append one record (its `seq` is given here) and return it as stored."""
        ...

    async def page(self, *, task: str, type_: str, limit: int, since: int | None) -> list[TaskEvent]:
        """Return records, newest first; with `since` those behind that sequence, oldest first. Filters are exact."""
        ...

    async def newest(self) -> int:
        """Return the place of the newest record, 0 when there is none: one that comes is behind it."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Return what `/events/stats` shows, without path and retention; the most frequent of very many names."""
        ...

    async def trim(self, retention: Retention, *, now: int) -> dict[str, int]:
        """Remove what is too old or too many: cutoff, deletedExpired, deletedOverflow, count."""
        ...

    async def vacuum(self) -> None:
        """Give free pages back to the file system."""
        ...


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """One message in the outbox, to a chat channel or to an address.

    `sent` counts the chunks of the message that were delivered; `token` is sealed.
    """

    id: str
    task: TaskId
    kind: ParcelKind
    destination: str
    body: bytes
    token: bytes | None
    attempts: int
    sent: int
    next_at: int
    created_at: int

    @property
    def way(self) -> Literal["chat", "webhook"]:
        """Return how it travels."""
        return "webhook" if self.kind.startswith("webhook") else "chat"

    @property
    def question(self) -> bool:
        """Tell whether it lets whoever reads it decide."""
        return self.kind.endswith("-question")


class Outbox(Protocol):
    """Callbacks that must still be delivered. They are put in by the transaction that gives rise to them."""

    async def put(self, event: TaskEvent, parcels: Sequence[NewParcel]) -> None:
        """Record an event of a task, with what is to be sent because of it; chats get the task's own bot token."""
        ...

    async def due(self, *, now: int, limit: int) -> list[Parcel]:
        """Return parcels whose time has come, oldest first."""
        ...

    async def progress(self, parcel: str, *, sent: int, attempts: int, next_at: int) -> None:
        """Remember how far a delivery got."""
        ...

    async def settle(self, parcel: str, event: TaskEvent) -> bool:
        """Remove a parcel with its one terminal event; False when it was settled before."""
        ...
