"""What happens to host tasks when their jobs are confirmed, queued again, or ended.

The end of a task is one transaction: its state, its result as the Task API shows it, its record in the trail, its
conversation, the callbacks that are owed, and the next task of the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from clawplane.domain.callback_texts import chat_text
from clawplane.domain.host_results import exit_code_of, json_of, result_object, shown
from clawplane.domain.host_tasks import Approval, HostTask, NewParcel, OnLoss, Prompt, TaskEvent, TaskReport, TaskStatus
from clawplane.domain.ids import JobId
from clawplane.domain.leases import Outcome
from clawplane.domain.runs import EndedRun
from clawplane.store.agent_bindings import bind_provider
from clawplane.store.database import Transaction
from clawplane.store.endings import Ending, Retry
from clawplane.store.host_blobs import plain
from clawplane.store.host_rows import RESULTS, StoredTask, TaskCounter, digest_of_report, tasks_of_jobs
from clawplane.store.host_submits import next_of
from clawplane.store.host_trail import append_task_events
from clawplane.store.leases import id_list, leases_of
from clawplane.store.parcels import ParcelRow, put_parcels, row_of

_report = msgspec.msgpack.Decoder(TaskReport).decode
_LONGEST_ID = 500
_UNREADABLE = TaskReport(
    exit_code=-1, error="The runner's report cannot be read.", stderr="The runner's report cannot be read."
)
_PENDING, _RUNNING = TaskStatus.PENDING.value, TaskStatus.RUNNING.value


class HostConsequences:
    """The meaning of jobs of kind `host`."""

    async def confirmed(self, tx: Transaction, jobs: Sequence[JobId], now: int) -> None:
        """Let the tasks run, where their runners are; the control plane sends their callbacks."""
        leases = await leases_of(tx, jobs)
        starts = {job: Start(lease.attempt, lease.runner, server_delivers=True) for job, lease in leases.items()}
        await start(tx, starts, now=now)

    async def retried(self, tx: Transaction, retries: Sequence[Retry]) -> None:
        """Let the tasks wait again, at their old places."""
        found = await tasks_of_jobs(tx, [retry.job for retry in retries])
        counter = TaskCounter()
        for stored in found.values():
            counter.move(stored.task.status.value, _PENDING)
        at = {retry.job: retry.at for retry in retries}
        await tx.many("unstart_host", [(stored.task.attempt, at[job], job) for job, stored in found.items()])
        await counter.write(tx)
        await append_task_events(
            tx,
            [
                stored.event(
                    "task.requeued",
                    TaskStatus.PENDING,
                    at[job],
                    {"attempt": stored.task.attempt, "policy": OnLoss.REQUEUE.value},
                )
                for job, stored in found.items()
            ],
        )

    async def ended(self, tx: Transaction, endings: Sequence[Ending]) -> dict[JobId, EndedRun]:
        """Store the results; no run ends with them."""
        found = {ending.job: ending.task for ending in endings if ending.task is not None}
        found |= await tasks_of_jobs(tx, [ending.job for ending in endings if ending.task is None])
        ends = _Ends()
        for ending in endings:
            stored = found.pop(ending.job, None)
            if stored is not None and not stored.task.status.ended:
                ends.add(stored, ending)
        await ends.write(tx)
        return {}


class Start(NamedTuple):
    """Who takes a task, with which attempt; `server_delivers`: whether the control plane sends its callback."""

    attempt: int
    runner: str
    server_delivers: bool


async def start(tx: Transaction, starts: Mapping[JobId, Start], *, now: int) -> dict[JobId, StoredTask]:
    """Set tasks running and return them as they are then."""
    found = await tasks_of_jobs(tx, starts)
    counter = TaskCounter()
    rows, events = [], []
    running: dict[JobId, StoredTask] = {}
    for job, stored in found.items():
        attempt, runner, server_delivers = starts[job]
        counter.move(stored.task.status.value, _RUNNING)
        rows.append((now, attempt, runner, int(server_delivers), job))
        events.append(stored.event("task.started", TaskStatus.RUNNING, now))
        task = msgspec.structs.replace(
            stored.task, status=TaskStatus.RUNNING, started_at=now, attempt=attempt, runner=runner
        )
        running[job] = msgspec.structs.replace(stored, task=task, server_delivers=server_delivers)
    await tx.many("start_host", rows)
    await counter.write(tx)
    await append_task_events(tx, events)
    return running


class _Ends:
    """The ends of one batch: put together task by task, written with one statement a table."""

    def __init__(self) -> None:
        self._counter = TaskCounter()
        self._states: list[tuple[object, ...]] = []
        self._results: list[tuple[object, ...]] = []
        self._events: list[TaskEvent] = []
        self._parcels: list[ParcelRow] = []
        self._told: list[tuple[HostTask, TaskReport, int]] = []

    def add(self, stored: StoredTask, ending: Ending) -> None:
        """Put one end together."""
        task, at = stored.task, ending.at
        report, reason = _what_is_told(task, ending)
        report, body = _body_of(task, report, at)
        status = TaskStatus.COMPLETED if report.succeeded else TaskStatus.FAILED
        self._counter.move(task.status.value, status.value)
        self._counter.move(None, RESULTS)
        self._states.append((status.value, at, reason, task.job))
        self._results.append(_result_row(task.id, body, report, at))
        if reason == "expired":
            details = {"reason": "deadline", "attempt": task.attempt}
            self._events.append(stored.event("task.expired", status, at, details))
        shown_end = {"exitCode": shown(exit_code_of(report)), "error": shown(report.error or None)}
        self._events.append(stored.event(f"task.{status.value}", status, at, shown_end))
        parcels, events = _callbacks(stored, report, body, at)
        self._parcels += parcels
        self._events += events
        self._told.append((task, report, at))

    async def write(self, tx: Transaction) -> None:
        """Write all down, and let the next tasks of the conversations in."""
        await self._counter.write(tx)
        await tx.many("end_host", self._states)
        await tx.many("insert_host_result", self._results)
        for task, report, at in self._told:
            await note_session(tx, task, report, at)
        await put_parcels(tx, self._parcels)
        await append_task_events(tx, self._events)
        in_conversations = [(task, at) for task, _, at in self._told if task.session_key is not None]
        if len(in_conversations) > 1:  # those behind go first, so that the end of a head lets nobody in who has ended
            await tx.execute("delete_behind_jobs", {"jobs": id_list([task.job for task, _ in in_conversations])})
        for task, at in in_conversations:
            await next_of(tx, task.session_key or "", task.job, at)


def _what_is_told(task: HostTask, ending: Ending) -> tuple[TaskReport, str]:
    """Return the report of an end, and why it is not the task's own: cancelled, refused, expired, lost, or ""."""
    outcome = ending.outcome
    report = ending.report or _shipped(outcome.result)
    if ending.aborted:
        why = "refused" if task.approval is Approval.REFUSED else "cancelled"
        message = outcome.message or why.capitalize()
        cut = report or TaskReport()
        return msgspec.structs.replace(cut, exit_code=-1, error=message, stderr=cut.stderr or message), why
    if report is not None:
        return report, ""
    return _without_word(outcome)


def _without_word(outcome: Outcome) -> tuple[TaskReport, str]:
    reason = "expired" if outcome.reason == "timeout" else "lost"
    message = outcome.message or "The runner was lost."
    return TaskReport(exit_code=-1, error=message, stderr=message), reason


def _shipped(result: bytes) -> TaskReport | None:
    """Return the report that came over the link; a runner may send anything."""
    if not result:
        return None
    try:
        return _report(result)
    except (msgspec.DecodeError, RecursionError):
        return _UNREADABLE


def _body_of(task: HostTask, report: TaskReport, at: int) -> tuple[TaskReport, bytes]:
    """Return the report and its result object; what JSON cannot say at all is a failure that says so."""
    try:
        return report, result_object(task.id, task, report, now=at)
    except (TypeError, ValueError, RecursionError):
        return _UNREADABLE, result_object(task.id, task, _UNREADABLE, now=at)


async def insert_result(tx: Transaction, task: str, body: bytes, report: TaskReport, at: int) -> bool:
    """Store a result; False when there is one."""
    names = ("task", "digest", "exit_code", "created_at", "body")
    values = dict(zip(names, _result_row(task, body, report, at), strict=True))
    return await tx.execute("insert_host_result", values) > 0


def _result_row(task: str, body: bytes, report: TaskReport, at: int) -> tuple[object, ...]:
    return (task, digest_of_report(report), json_of(exit_code_of(report)), at, body)


async def note_session(tx: Transaction, task: HostTask | None, report: TaskReport, at: int) -> None:
    """Make or touch the row of the provider's session id that a report carries, and bind it to its conversation."""
    provider = report.metadata.get("sessionId")
    if not isinstance(provider, str) or not (provider := plain(provider.strip())) or len(provider) > _LONGEST_ID:
        return
    cli = "unknown" if task is None else task.type.value.removesuffix("-cli")
    channel = None if task is None else task.callback_channel
    row = {"session_id": provider, "cli_type": cli, "callback_channel": channel, "count": 0, "now": at}
    await tx.execute("touch_agent_session", row)
    if task is not None and task.session_key is not None:
        _, _, conversation = task.session_key.partition(":")
        await bind_provider(tx, cli, conversation, provider, at)


def _callbacks(stored: StoredTask, report: TaskReport, body: bytes, at: int) -> tuple[list[ParcelRow], list[TaskEvent]]:
    """Return the callbacks that are owed, as rows of the outbox, and what is to be recorded at once."""
    task = stored.task
    status = TaskStatus.COMPLETED if report.succeeded else TaskStatus.FAILED
    parcels: list[ParcelRow] = []
    events: list[TaskEvent] = []
    work = task.work
    if isinstance(work, Prompt) and work.response_mode == "direct-callback" and stored.server_delivers:
        if stored.deliver_to:
            text = chat_text(task, report, now=at).encode("utf-8", "replace")
            letter = NewParcel(kind="chat", destination=stored.deliver_to, body=text)
            parcels.append(row_of(letter, task.id, stored.callback_token, at))
        elif stored.deliver_to is not None:
            events.append(stored.event("callback.skipped", status, at, {"reason": "no channel"}))
    if task.callback_url:
        told = json.dumps({"type": f"task.{status.value}", "task": _told_of(task, status, at)})
        notice = b'%s, "result": %s}' % (told[:-1].encode(), body)
        letter = NewParcel(kind="webhook", destination=task.callback_url, body=notice)
        parcels.append(row_of(letter, task.id, None, at))
    return parcels, events


def _told_of(task: HostTask, status: TaskStatus, at: int) -> dict[str, Any]:
    """Return what a webhook is told of a task."""
    return {
        "id": task.id,
        "type": task.type.value,
        "status": status.value,
        "createdAt": task.created_at,
        "startedAt": task.started_at,
        "completedAt": at,
        "sessionId": task.session_id,
        "runner": task.runner,
        "attempt": task.attempt,
        "labels": task.labels,
    }
