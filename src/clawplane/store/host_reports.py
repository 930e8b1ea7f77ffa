"""End host tasks by a word from outside the link: a report of the Task API's wire, a cancel, a refusal.

Reports of that wire name a task and nothing else, so whoever reports first ends it, whatever state it is in and whoever
holds it. Repeats are told from conflicts by a digest that is kept with the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.host_ports import Reported
from clawplane.domain.host_results import exit_code_of, result_object, shown
from clawplane.domain.host_tasks import Approval, HostTask, TaskId, TaskReport, TaskStatus
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import AttemptEnd, Claim, JobKind, LeaseView, Outcome
from clawplane.store.database import Transaction, first
from clawplane.store.endings import Ending
from clawplane.store.host_blobs import plain
from clawplane.store.host_ends import insert_result, note_session
from clawplane.store.host_rows import (
    RESULTS,
    StoredTask,
    TaskCounter,
    digest_of_report,
    task_of_id,
    tasks_of_ids,
    tasks_of_jobs,
)
from clawplane.store.host_submits import is_head, let_in
from clawplane.store.host_trail import append_task_events
from clawplane.store.lease_ends import Cancelled, cancel_jobs, take_out
from clawplane.store.leases import leases_of
from clawplane.store.ledger import Ledger


class NewReport(NamedTuple):
    """What the Task API's wire says of a task."""

    task: TaskId
    report: TaskReport
    now: int


class LateEnd(NamedTuple):
    """The end that a linked runner reports of a lease that it lost."""

    claim: Claim
    runner: RunnerId
    result: bytes
    now: int


class Unwanted(NamedTuple):
    """A task that nobody wants any more."""

    task: TaskId
    reason: str
    now: int


class Approved(NamedTuple):
    """A person's word about a task that waits for it."""

    task: TaskId
    given: bool
    by: str
    now: int


_decode_report = msgspec.msgpack.Decoder(TaskReport).decode


async def report(tx: Transaction, items: Sequence[NewReport]) -> list[Reported]:
    """End tasks; the first terminal result wins, even within the batch."""
    found = await tasks_of_ids(tx, [item.task for item in items])
    firsts: dict[TaskId, int] = {}
    for index, item in enumerate(items):
        stored = found.get(item.task)
        if stored is not None and not stored.task.status.ended:
            firsts.setdefault(item.task, index)
    answers = await _end_all(tx, [(found[task], items[index]) for task, index in firsts.items()])
    results: list[Reported] = []
    for index, item in enumerate(items):
        if firsts.get(item.task) == index:
            results.append(answers[item.task])
        else:
            results.append(await _report(tx, *item))
    return results


async def _report(tx: Transaction, task: TaskId, told: TaskReport, now: int) -> Reported:
    stored = await task_of_id(tx, task)
    if stored is None:
        return await _orphan(tx, task, told, now)
    if stored.task.status.ended:
        return await _again(tx, stored, told, now)
    return (await _end_all(tx, [(stored, NewReport(task, told, now))]))[task]


async def _end_all(tx: Transaction, ends: Sequence[tuple[StoredTask, NewReport]]) -> dict[TaskId, Reported]:
    """End tasks that have not ended, in whatever state they are, whoever holds them."""
    if not ends:
        return {}
    leases = await leases_of(tx, [stored.task.job for stored, _ in ends])
    ledger = Ledger()
    await take_out(tx, ledger, [stored.task.job for stored, _ in ends if stored.task.job not in leases])
    for stored, (_, told, now) in ends:
        outcome = Outcome(succeeded=told.succeeded, reason="exit")
        lease = leases.get(stored.task.job)
        if lease is not None:
            ledger.release(lease, AttemptEnd.FINISHED.value, now, outcome)
        end = Ending(stored.task.job, outcome, aborted=False, at=now, report=told, task=stored)
        ledger.end(JobKind.HOST.value, end)
    await ledger.write(tx)
    return {
        stored.task.id: Reported(
            outcome="accepted",
            task=stored.task.id,
            leases=tuple(leases[job].view() for job in (stored.task.job,) if job in leases),
        )
        for stored, _ in ends
    }


async def late(tx: Transaction, items: Sequence[LateEnd]) -> list[Reported | None]:
    """End tasks by ends whose leases are gone; only whoever had begun a task may say how it ended."""
    results: list[Reported | None] = []
    for claim, runner, result, now in items:
        known = {"job": claim.job, "fence": claim.fence, "nonce": claim.nonce, "runner": runner}
        had = await first(tx.fetch("begun_attempt", known))
        stored = None if had is None else (await tasks_of_jobs(tx, [claim.job])).get(claim.job)
        try:
            told = _decode_report(result)
        except (msgspec.MsgspecError, RecursionError):
            told = None
        results.append(None if stored is None or told is None else await _report(tx, stored.task.id, told, now))
    return results


async def _orphan(tx: Transaction, task: TaskId, told: TaskReport, now: int) -> Reported:
    if await insert_result(tx, task, result_object(task, None, told, now=now), told, now):
        counter = TaskCounter()
        counter.move(None, RESULTS)
        await counter.write(tx)
        await note_session(tx, None, told, now)
    return Reported(outcome="unknown")


async def _again(tx: Transaction, stored: StoredTask, told: TaskReport, now: int) -> Reported:
    row = await first(tx.fetch("digest_of_host_result", {"task": stored.task.id}))
    if row is None or row[0] == digest_of_report(told):
        return Reported(outcome="repeated", task=stored.task.id)
    details = {
        "exitCode": shown(exit_code_of(told)),
        "error": shown(told.error or None),
        "kept": stored.task.status.value,
    }
    await append_task_events(tx, [stored.event("task.report-conflict", stored.task.status, now, details)])
    return Reported(outcome="conflict", task=stored.task.id)


async def cancel(tx: Transaction, items: Sequence[Unwanted]) -> list[tuple[HostTask, list[LeaseView]] | None]:
    """End what waits, and mark what runs."""
    return [await _cancel(tx, *item) for item in items]


async def _cancel(tx: Transaction, task: TaskId, reason: str, now: int) -> tuple[HostTask, list[LeaseView]] | None:
    stored = await task_of_id(tx, task)
    if stored is None or stored.task.status.ended:
        return None
    job = stored.task.job
    status = stored.task.status
    await append_task_events(tx, [stored.event("task.cancel-requested", status, now, {"reason": shown(reason)})])
    leases = await cancel_jobs(tx, Cancelled((job,), plain(reason), now))
    if not leases:
        await _end_waiting(tx, task, job, reason, now)
    return await _after(tx, task), leases


async def _end_waiting(tx: Transaction, task: TaskId, job: JobId, reason: str, now: int) -> None:
    """End a task that was outside the queue: behind another of its conversation, or waiting for a yes."""
    after = await _after(tx, task)
    if after.status.ended:
        return
    ledger = Ledger()
    outcome = Outcome(succeeded=False, reason="aborted", message=reason)
    ledger.end(JobKind.HOST.value, Ending(job, outcome, aborted=True, at=now))
    await ledger.write(tx)


async def approve(tx: Transaction, items: Sequence[Approved]) -> list[HostTask | None]:
    """Let tasks in that waited for a yes, or end them."""
    return [await _approve(tx, *item) for item in items]


async def _approve(tx: Transaction, task: TaskId, given: bool, by: str, now: int) -> HostTask | None:
    stored = await task_of_id(tx, task)
    if stored is None or stored.task.approval is not Approval.WAITING or stored.task.status is not TaskStatus.PENDING:
        return None
    approval = Approval.GIVEN if given else Approval.REFUSED
    await tx.execute("set_host_approval", {"approval": approval.value, "aging_since": now, "job": stored.task.job})
    word = "task.approved" if given else "task.refused"
    await append_task_events(tx, [stored.event(word, TaskStatus.PENDING, now, {"by": by})])
    if not given:
        await _end_waiting(tx, task, stored.task.job, f"Refused by {by}.", now)
    elif await is_head(tx, stored.task):
        approved = msgspec.structs.replace(stored.task, approval=approval)
        await let_in(tx, [msgspec.structs.replace(stored, task=approved)], now)
    return await _after(tx, task)


async def _after(tx: Transaction, task: TaskId) -> HostTask:
    stored = await task_of_id(tx, task)
    if stored is None:
        raise LookupError(task)
    return stored.task
