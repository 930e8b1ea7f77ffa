"""What happens to subtasks and runs when their jobs are confirmed, queued again, or ended.

A run counts its subtasks by state, so that its end is noticed without looking at them: it ends with the statement after
which none is ready or running.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from clawplane.domain.ids import JobId, RunSlug
from clawplane.domain.leases import Outcome
from clawplane.domain.lifecycle import RunStatus, SubtaskStatus
from clawplane.domain.runs import EndedRun, SubtaskTotals
from clawplane.store.database import Transaction, first
from clawplane.store.endings import Ending, Retry
from clawplane.store.events import NewEvent, append_events
from clawplane.store.leases import id_list

_encode = msgspec.msgpack.Encoder().encode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode

_STATES = tuple(status.value for status in SubtaskStatus)
_CPU, _TRAFFIC = "cpu_ms", "traffic"


class _Part(msgspec.Struct, gc=False):
    """A subtask as a transaction finds it."""

    job: JobId
    run: int
    status: str
    rows: int


class _RunChanges:
    """How many more subtasks of each run are in each state, and the CPU time and traffic they used."""

    def __init__(self) -> None:
        self._by_run: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def move(self, part: _Part, to: SubtaskStatus, cpu_ms: int = 0, traffic: int = 0) -> None:
        change = self._by_run[part.run]
        change[part.status] -= 1
        change[to.value] += 1
        change[_CPU] += cpu_ms
        change[_TRAFFIC] += traffic
        part.status = to.value

    async def write(self, tx: Transaction) -> None:
        await tx.many(
            "change_run_state",
            [
                (*(change[s] for s in _STATES), change[_CPU], change[_TRAFFIC], run)
                for run, change in self._by_run.items()
            ],
        )

    @property
    def runs(self) -> list[int]:
        return list(self._by_run)


async def _parts(tx: Transaction, jobs: Sequence[JobId]) -> dict[JobId, _Part]:
    rows = await tx.fetch("subtasks_of_jobs", {"jobs": id_list(jobs)})
    return {row[0]: _Part(*row) for row in rows}


class SubtaskConsequences:
    """The meaning of jobs of kind `subtask`."""

    async def confirmed(self, tx: Transaction, jobs: Sequence[JobId], now: int) -> None:
        """Let the subtasks run, and their runs with the first; drop what earlier attempts shipped."""
        parts = [part for part in (await _parts(tx, jobs)).values() if part.status == SubtaskStatus.READY]
        if not parts:
            return
        changes = _RunChanges()
        for part in parts:
            changes.move(part, SubtaskStatus.RUNNING)
        await _set_status(tx, parts, SubtaskStatus.RUNNING)
        await changes.write(tx)
        shipped = [part for part in parts if part.rows]
        if shipped:
            await _drop_rows(tx, shipped)
        started = await tx.fetch("start_runs", {"now": now, "runs": id_list(changes.runs)})
        await append_events(tx, [NewEvent(now, "run.running", slug, {}) for slug, _ in started])
        for _, owner in started:
            await enter_running(tx, owner)

    async def retried(self, tx: Transaction, retries: Sequence[Retry]) -> None:
        """Let the subtasks wait again; their run goes on."""
        parts = await _parts(tx, [retry.job for retry in retries])
        changes = _RunChanges()
        for retry in retries:
            if retry.job in parts:
                changes.move(parts[retry.job], SubtaskStatus.READY, retry.cpu_ms)
        await _set_status(tx, parts.values(), SubtaskStatus.READY)
        await changes.write(tx)

    async def ended(self, tx: Transaction, endings: Sequence[Ending]) -> dict[JobId, EndedRun]:
        """End the subtasks, and each run that has none left; return those runs under the job that was the last."""
        parts = await _parts(tx, [ending.job for ending in endings])
        changes = _RunChanges()
        last: dict[int, Ending] = {}
        settled: list[tuple[object, ...]] = []
        for ending in endings:
            part = parts.get(ending.job)
            if part is None:
                continue
            changes.move(part, _status_of(ending), ending.outcome.cpu_ms, ending.outcome.traffic)
            settled.append((part.status, _encode(ending.outcome), part.job))
            last[part.run] = ending
        if not settled:
            return {}
        await tx.many("end_subtask", settled)
        await changes.write(tx)
        return await _end_runs(tx, last)


def _status_of(ending: Ending) -> SubtaskStatus:
    if ending.aborted:
        return SubtaskStatus.ABORTED
    return SubtaskStatus.SUCCEEDED if ending.outcome.succeeded else SubtaskStatus.FAILED


async def _set_status(tx: Transaction, parts: Iterable[_Part], status: SubtaskStatus) -> None:
    await tx.execute("set_subtask_status", {"status": status.value, "jobs": id_list(part.job for part in parts)})


async def _drop_rows(tx: Transaction, parts: Sequence[_Part]) -> None:
    places = [(part.run, part.job) for part in parts]
    await tx.many("drop_rows_of_job", places)
    await tx.many("drop_upserts_of_job", places)
    await tx.many("subtract_results", [(part.rows, part.run) for part in parts])
    await tx.many("forget_row_count", [(part.job,) for part in parts])


async def _end_runs(tx: Transaction, last: dict[int, Ending]) -> dict[JobId, EndedRun]:
    """End those of the runs that have nothing left to do."""
    ended: dict[JobId, EndedRun] = {}
    events: list[NewEvent] = []
    for run, slug, owner, before, *counts in await tx.fetch("runs_without_work", {"runs": id_list(last)}):
        totals = SubtaskTotals(ready=0, running=0, succeeded=counts[0], failed=counts[1], aborted=counts[2])
        status = _run_status(RunStatus(before), totals)
        ending = last[run]
        hidden = 0
        if status is RunStatus.SUCCEEDED and totals.failed:
            ((hidden,),) = await tx.fetch("rows_of_failed_subtasks", {"run": run})
        error = await _first_error(tx, run) if status is RunStatus.FAILED else ""
        await tx.execute(
            "end_run", {"status": status.value, "error": error, "hidden": hidden, "now": ending.at, "run": run}
        )
        if before == RunStatus.RUNNING:
            await leave_running(tx, owner)
        if before != status:
            events.append(NewEvent(ending.at, f"run.{status.value}", slug, {}))
        ended[ending.job] = EndedRun(slug=RunSlug(slug), status=status, totals=totals)
    await append_events(tx, events)
    return ended


def _run_status(before: RunStatus, totals: SubtaskTotals) -> RunStatus:
    if before is RunStatus.ABORTING:
        return before
    return RunStatus.SUCCEEDED if totals.succeeded else RunStatus.FAILED


async def _first_error(tx: Transaction, run: int) -> str:
    row = await first(tx.fetch("first_failed_outcome", {"run": run}))
    return "It was cancelled." if row is None else _decode_outcome(row[0]).message


async def enter_running(tx: Transaction, owner: str) -> None:
    """Count one more running run of this owner."""
    await tx.fetch("next_value", {"name": f"running runs of {owner}", "step": 1})


async def leave_running(tx: Transaction, owner: str) -> None:
    """Count one running run of this owner less."""
    await tx.fetch("next_value", {"name": f"running runs of {owner}", "step": -1})


async def running_runs(tx: Transaction, owner: str) -> int:
    """Return how many runs of this owner are running; those that wait or are being aborted do not count."""
    row = await first(tx.fetch("counter_value", {"name": f"running runs of {owner}"}))
    return 0 if row is None else row[0]
