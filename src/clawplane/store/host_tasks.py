"""Keep host tasks; see host_ports.HostTasks. What each step does is in host_submits, _claims, _reports, _fetches."""

from __future__ import annotations

from collections.abc import Sequence

from clawplane.domain.host_ports import (
    Claimed,
    Outlook,
    Poll,
    Reported,
    Retention,
    Stock,
    Submitted,
    Swept,
    TaskCounts,
    TaskFilter,
    Waiting,
)
from clawplane.domain.host_tasks import (
    HostTask,
    NewParcel,
    NewTask,
    OnLoss,
    StoredResult,
    TaskId,
    TaskReport,
    TaskStatus,
)
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, LeaseView
from clawplane.store import host_claims, host_fetches, host_reports, host_submits
from clawplane.store.database import Database, Transaction, first
from clawplane.store.host_blobs import plain
from clawplane.store.host_rows import RESULTS, stored_of, task_of_id

_LAST = 1 << 62


class SqlHostTasks:
    """Host tasks over the one queue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(self, new: NewTask, *, now: int) -> Submitted:
        """Store a task with its job, record and conversation; raises Conflict on a reused idempotency key."""
        item = host_submits.NewSubmission(new, now)
        return await self._database.write(host_submits.submit, item, weight=host_submits.weight_of(new))

    async def claim(self, polls: Sequence[Poll], *, now: int) -> list[Claimed | None]:
        """Give each poll the first task it can be given."""
        return await self._database.write(host_claims.claim, host_claims.Polls(tuple(polls), now))

    async def unclaim(self, task: TaskId, fence: int, *, now: int) -> bool:
        """Undo a claim whose answer could not be delivered."""
        return await self._database.write(host_claims.unclaim, host_claims.Unclaim(task, fence, now))

    async def report(self, task: TaskId, report: TaskReport, *, now: int) -> Reported:
        """Let a report of the Task API's wire end a task."""
        weight = len(report.stdout) + len(report.stderr)
        item = host_reports.NewReport(TaskId(plain(task)), report, now)
        return await self._database.write(host_reports.report, item, weight=weight)

    async def late(self, claim: Claim, runner: RunnerId, result: bytes, *, now: int) -> Reported | None:
        """Let the end of a linked runner count whose lease is gone."""
        item = host_reports.LateEnd(claim, runner, result, now)
        return await self._database.write(host_reports.late, item, weight=len(result))

    async def take_result(self, task: TaskId, *, now: int) -> StoredResult | None:
        """Consume a result; None when there is none, or another took it."""
        return await self._database.write(host_fetches.take, host_fetches.Take(task, now))

    async def put_back(self, task: TaskId) -> None:
        """Undo `take_result`."""
        await self._database.write(host_fetches.put_back, task)

    async def result(self, task: TaskId) -> StoredResult | None:
        """Return a result, consumed or not, without consuming it."""

        async def view(tx: Transaction) -> StoredResult | None:
            row = await first(tx.fetch("find_host_result", {"task": plain(task)}))
            return None if row is None else host_fetches.result_of(row)

        return await self._database.read(view)

    async def find(self, task: TaskId) -> HostTask | None:
        """Return a task that is there for additive readers."""

        async def view(tx: Transaction) -> HostTask | None:
            stored = await task_of_id(tx, plain(task))
            return None if stored is None else stored.task

        return await self._database.read(view)

    async def outlook(self, task: TaskId) -> Outlook:
        """Return what a fetch of the Task API would find."""
        there, fetched, status = (await self._database.glance("host_outlook", {"task": plain(task)}))[0]
        known = None if status is None or fetched else TaskStatus(status)
        return Outlook(status=known, ready=there is not None and not fetched)

    async def page(self, filter_: TaskFilter, *, limit: int, before: JobId | None) -> list[HostTask]:
        """Return tasks, newest first, before a job id."""
        wanted = {
            "before": _LAST if before is None else before,
            "owner": filter_.owner,
            "status": None if filter_.status is None else filter_.status.value,
            "type": None if filter_.type is None else filter_.type.value,
            "session_id": plain(filter_.session_id),
            "runner": plain(filter_.runner),
            "limit": limit,
        }
        name = "host_page_of_session" if filter_.session_id else "host_page"

        async def view(tx: Transaction) -> list[HostTask]:
            return [stored_of(row).task for row in await tx.fetch(name, wanted)]

        return await self._database.read(view)

    async def cancel(self, task: TaskId, reason: str, *, now: int) -> tuple[HostTask, list[LeaseView]] | None:
        """End a task that waits, now; mark the lease of one that runs and return it."""
        return await self._database.write(host_reports.cancel, host_reports.Unwanted(task, reason, now))

    async def approve(self, task: TaskId, *, given: bool, by: str, now: int) -> HostTask | None:
        """Let a task start that waits for a yes, or fail it; None when it does not wait for one."""
        return await self._database.write(host_reports.approve, host_reports.Approved(task, given, by, now))

    async def retry(
        self, task: TaskId, new_id: TaskId, new_job: JobId, *, now: int, questions: Sequence[NewParcel] = ()
    ) -> HostTask | None:
        """Submit an ended task's work again as a new task."""
        again = host_submits.Again(task, new_id, new_job, now, tuple(questions))
        return await self._database.write(host_submits.retry, again)

    async def waiting(self, task: TaskId) -> Waiting | None:
        """Return what `explain` needs of a pending task; None otherwise."""

        async def view(tx: Transaction) -> Waiting | None:
            stored = await task_of_id(tx, task)
            if stored is None or stored.task.status is not TaskStatus.PENDING:
                return None
            job = stored.task.job
            ((caps, ready_at, due_at),) = await tx.fetch("job_place", {"job": job})
            ((ahead,),) = await tx.fetch("caps_ahead", {"caps": caps, "ready_at": ready_at, "job": job})
            head = None
            if stored.task.session_key is not None:
                row = await first(tx.fetch("head_of_key", {"session_key": stored.task.session_key}))
                head = None if row is None or row[1] == job else TaskId(row[0])
            return Waiting(ahead=ahead, due_at=due_at, session_head=head, caps=caps)

        return await self._database.read(view)

    async def reopen(self, *, now: int) -> list[tuple[HostTask, OnLoss]]:
        """After a start: take back what polls without heartbeats held, by each task's policy."""
        return await self._database.write(host_claims.lose, host_claims.Lost(None, now))

    async def lose(self, jobs: Sequence[tuple[JobId, int]], *, now: int) -> list[tuple[HostTask, OnLoss]]:
        """Take back leases whose runner says that it has them no more, by each task's policy."""
        return await self._database.write(host_claims.lose, host_claims.Lost(tuple(jobs), now))

    async def take_stock(self, runner: RunnerId, number: int, held: Sequence[tuple[TaskId, int]], *, now: int) -> Stock:
        """Take back what a runner was given and does not name."""
        item = host_claims.Inventory(runner, number, frozenset(held), now)
        return await self._database.write(host_claims.take_stock, item)

    async def counts(self) -> TaskCounts:
        """Return the counts of `/tasks/stats`."""

        async def view(tx: Transaction) -> TaskCounts:
            numbers = {what: number for what, number in await tx.fetch("host_counts") if number}
            results = numbers.pop(RESULTS, 0)
            return TaskCounts(by_status=numbers, results=results)

        return await self._database.read(view)

    async def waits(self) -> dict[str, tuple[int, int]]:
        """Return, per capability, how many wait and since when the oldest does."""

        async def view(tx: Transaction) -> dict[str, tuple[int, int]]:
            return {caps: (ready, oldest or 0) for caps, ready, oldest in await tx.fetch("oldest_waits")}

        return await self._database.read(view)

    async def sweep(self, retention: Retention, *, now: int) -> Swept:
        """Remove what is older than it may be, with `task.expired`; bounded work per call."""
        return await self._database.write(host_fetches.sweep, host_fetches.Sweep(retention, now))
