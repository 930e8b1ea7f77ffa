"""Keep runs and their subtasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from clawplane.domain.batches import Batch, LogLine, StoredLogLine, StoredRow
from clawplane.domain.errors import ClawplaneError, ConcurrencyLimited, InvalidArgument
from clawplane.domain.ids import JobId, RunSlug, WorkerSlug
from clawplane.domain.leases import LeaseView, NewJob, Outcome
from clawplane.domain.lifecycle import RunStatus, SubtaskStatus
from clawplane.domain.ports import AppendResult
from clawplane.domain.runs import HeaderItem, NewRun, Run, RunFilter, RunSystem, Subtask
from clawplane.store import logs, rows
from clawplane.store.database import Database, Row, Transaction, first
from clawplane.store.enqueue import enqueue
from clawplane.store.events import NewEvent, append_events
from clawplane.store.lease_ends import Cancelled, cancel_jobs
from clawplane.store.run_ends import leave_running, running_runs
from clawplane.store.shipments import append, weight_of

_to_json = msgspec.json.Encoder().encode
_system = msgspec.json.Decoder(RunSystem).decode
_header = msgspec.json.Decoder(tuple[HeaderItem, ...]).decode
_outcome = msgspec.msgpack.Decoder(Outcome).decode

ABORTED = "The run was aborted."


class _Start(NamedTuple):
    new: NewRun
    max_running: int


class _Abort(NamedTuple):
    slug: RunSlug
    now: int


async def start(tx: Transaction, items: Sequence[_Start]) -> list[ClawplaneError | None]:
    """Store runs and queue their subtasks."""
    results: list[ClawplaneError | None] = []
    jobs: list[NewJob] = []
    subtasks: list[tuple[object, ...]] = []
    events: list[NewEvent] = []
    for new, max_running in items:
        if not new.jobs:
            results.append(InvalidArgument("A run needs at least one subtask."))
            continue
        if await running_runs(tx, new.run.owner) >= max_running:
            results.append(ConcurrencyLimited(f"{max_running} runs are running, which is the limit."))
            continue
        ((run,),) = await tx.fetch("insert_run", _run_values(new.run, len(new.jobs)))
        await tx.execute("insert_run_state", {"run": run, "status": RunStatus.READY.value, "ready": len(new.jobs)})
        subtasks += [(job.id, run, index, SubtaskStatus.READY.value) for index, job in enumerate(new.jobs)]
        jobs += new.jobs
        events.append(NewEvent(new.run.created_at, "run.ready", new.run.slug, {}))
        results.append(None)
    await tx.many("insert_subtask", subtasks)
    await enqueue(tx, jobs)
    await append_events(tx, events)
    return results


def _run_values(run: Run, subtask_count: int) -> dict[str, object]:
    return {
        "slug": run.slug,
        "worker": run.worker,
        "worker_title": run.worker_title,
        "version": run.version,
        "owner": run.owner,
        "input": run.input,
        "system": _to_json(run.system).decode(),
        "origin": run.origin,
        "callback_url": run.callback_url,
        "rerun_of": run.rerun_of,
        "subtask_count": subtask_count,
        "created_at": run.created_at,
    }


async def abort(tx: Transaction, items: Sequence[_Abort]) -> list[list[LeaseView] | None]:
    """Abort runs that have not ended."""
    return [await _abort(tx, item) for item in items]


async def _abort(tx: Transaction, item: _Abort) -> list[LeaseView] | None:
    found = await first(tx.fetch("run_to_abort", {"slug": item.slug}))
    if found is None or RunStatus(found[2]).ended:
        return None
    run, owner, before = found
    # first the run, so that the end of its last subtask finds it aborting
    await tx.execute("abort_run", {"run": run})
    if before == RunStatus.RUNNING:
        await leave_running(tx, owner)
    await append_events(tx, [NewEvent(item.now, "run.aborting", item.slug, {})])
    jobs = tuple(job for (job,) in await tx.fetch("unfinished_jobs", {"run": run}))
    return await cancel_jobs(tx, Cancelled(jobs, ABORTED, item.now))


class SqlRuns:
    """Runs, subtasks, rows and logs; see ports.Runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(self, new: NewRun, *, max_running: int) -> None:
        """Store a run with its subtasks and queue them; raises ConcurrencyLimited."""
        await self._database.write(start, _Start(new, max_running))

    async def find(self, slug: str) -> Run | None:
        """Return one run."""
        row = await first(self._database.glance("find_run", {"slug": slug}))
        return None if row is None else _run(row)

    async def last(self, *, owner: str, worker: WorkerSlug | None) -> Run | None:
        """Return the most recently created run of an owner, or of one Worker by that owner."""

        async def view(tx: Transaction) -> Run | None:
            if worker is None:
                found = await tx.fetch("last_run_of_owner", {"owner": owner})
            else:
                found = await tx.fetch("last_run_of_worker", {"owner": owner, "worker": worker})
            return _run((await tx.fetch("find_run", {"slug": found[0][0]}))[0]) if found else None

        return await self._database.read(view)

    async def page(self, filter_: RunFilter, *, limit: int, offset: int) -> tuple[int, list[Run]]:
        """Return the count and one page of runs, newest first."""
        wanted = msgspec.structs.asdict(filter_)

        async def view(tx: Transaction) -> tuple[int, list[Run]]:
            ((count,),) = await tx.fetch("count_runs", wanted)
            found = await tx.fetch("page_runs", {**wanted, "limit": limit, "offset": offset})
            return count, [_run(row) for row in found]

        return await self._database.read(view)

    async def subtasks(self, slug: RunSlug) -> list[Subtask]:
        """Return a run's subtasks in order."""

        async def view(tx: Transaction) -> list[Subtask]:
            return [_subtask(row) for row in await tx.fetch("subtasks_of_run", {"slug": slug})]

        return await self._database.read(view)

    async def abort(self, slug: RunSlug, *, now: int) -> list[LeaseView] | None:
        """Set a run to aborting; return its leases, and the offers that were taken back; None when it has ended."""
        return await self._database.write(abort, _Abort(slug, now))

    async def append(self, batch: Batch) -> AppendResult:
        """Store a batch once, fenced."""
        return await self._database.write(append, batch, weight=weight_of(batch))

    async def append_system_log(self, subject: str, group: str, lines: Sequence[LogLine]) -> None:
        """Append platform lines to a run's or a build's log."""
        item = logs.SystemLines(subject, group, tuple(lines))
        await self._database.write(logs.append_system_lines, item)

    async def rows(self, slug: RunSlug, *, limit: int, offset: int) -> tuple[int, list[StoredRow]]:
        """Return the visible count and one page of rows in order of arrival."""

        async def view(tx: Transaction) -> tuple[int, list[StoredRow]]:
            of = await rows.rows_of(tx, slug)
            return (0, []) if of is None else (of.visible, await rows.page(tx, of, limit, offset))

        return await self._database.read(view)

    async def stream_rows(self, slug: RunSlug, *, batch: int = 2000) -> AsyncIterator[list[bytes]]:
        """Yield the bodies of all visible rows in order, in lists of up to `batch`, or fewer when they are large."""
        collected: list[bytes] = []
        size = 0
        async for bodies in self._steps(slug, batch):
            collected += bodies
            size += sum(map(len, bodies))
            while len(collected) >= batch or (collected and size >= rows.STEP_BYTES):
                yield collected[:batch]
                collected = collected[batch:]
                size = sum(map(len, collected))
        if collected:
            yield collected

    async def columns(self, slug: RunSlug) -> list[HeaderItem]:
        """Return the union of keys over the visible rows, in order of first sight."""
        seen: dict[str, None] = {}
        async for _ in self._steps(slug, 2000, seen):
            pass
        return [HeaderItem(key=key, label=key) for key in seen]

    async def _steps(
        self, slug: RunSlug, batch: int, seen: dict[str, None] | None = None
    ) -> AsyncIterator[list[bytes]]:
        """Yield rows as the chunks fall; with `seen`, collect their keys beside the reading and yield no rows."""
        of = await self._database.read(lambda tx: rows.rows_of(tx, slug))
        start: int | None = None if of is None else 1

        while of is not None and start is not None:
            bodies, start = await self._database.read(partial(_step, of=of, start=start, rows_wanted=batch, seen=seen))
            yield bodies

    async def log_tail(self, subject: str, *, limit: int) -> list[StoredLogLine]:
        """Return the newest entries, oldest first."""
        return await self._database.read(lambda tx: logs.tail(tx, subject, limit))

    async def log_after(self, subject: str, seq: int, *, limit: int) -> list[StoredLogLine]:
        """Return entries behind `seq`, oldest first."""
        return await self._database.read(lambda tx: logs.behind(tx, subject, seq, limit))


async def _step(
    tx: Transaction, *, of: rows.RunRows, start: int, rows_wanted: int, seen: dict[str, None] | None
) -> tuple[list[bytes], int | None]:
    step = await rows.read_step(tx, of, start, rows_wanted)
    bodies = [body for _, chunk in step.chunks for body in chunk]
    if seen is None:
        return bodies, step.next
    rows.add_keys(seen, bodies)
    return [], step.next


def _run(row: Row) -> Run:
    (slug, worker, title, version, owner, status, input_, system, origin, callback, rerun_of, subtasks) = row[:12]
    (results, header, error, cpu_ms, traffic, created_at, started_at, finished_at) = row[12:]
    return Run(
        slug=RunSlug(slug),
        worker=WorkerSlug(worker),
        worker_title=title,
        version=version,
        owner=owner,
        status=RunStatus(status),
        input=input_,
        system=_system(system),
        origin=origin,
        callback_url=callback,
        rerun_of=None if rerun_of is None else RunSlug(rerun_of),
        subtask_count=subtasks,
        result_count=results,
        header=None if header is None else _header(header),
        error=error,
        cpu_ms=cpu_ms,
        traffic=traffic,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
    )


def _subtask(row: Row) -> Subtask:
    job, run, index, status, outcome = row
    return Subtask(
        id=JobId(job),
        run=RunSlug(run),
        index=index,
        status=SubtaskStatus(status),
        outcome=None if outcome is None else _outcome(outcome),
    )
