"""How host tasks come into the queue: submitted, approved, next in their conversation.

Three things keep a pending task out of the queue: an earlier unfinished task of its conversation, an approval that it
waits for, and its time. `let_in` looks at all three; whoever removes one of them calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec

from clawplane.domain.errors import ClawplaneError, Conflict
from clawplane.domain.host_ports import Submitted
from clawplane.domain.host_tasks import (
    Approval,
    HostSpec,
    HostTask,
    NewParcel,
    NewTask,
    OnLoss,
    TaskEvent,
    TaskId,
    TaskStatus,
    caps_of_task,
    order_of,
)
from clawplane.domain.ids import JobId
from clawplane.domain.leases import JobKind, NewJob
from clawplane.store.agent_bindings import bind, conversation_of, provider_of
from clawplane.store.counts import Counts
from clawplane.store.database import Transaction, first
from clawplane.store.enqueue import make_ready, store_jobs
from clawplane.store.host_blobs import Asked, pack_asked, pack_spec, plain, plain_or_none
from clawplane.store.host_rows import StoredTask, TaskCounter, stored_of, task_of_id, tasks_of_jobs
from clawplane.store.host_trail import append_task_events
from clawplane.store.parcels import ParcelRow, put_parcels, row_of

NEVER_MS = 1 << 45
"""A silence that no lease lives to see: its deadline ends it."""
_MOST_ATTEMPTS = 1_000_000


class NewSubmission(NamedTuple):
    """A task to be, and when it comes."""

    new: NewTask
    now: int


class Again(NamedTuple):
    """An ended task to be submitted again."""

    task: TaskId
    new_id: TaskId
    new_job: JobId
    now: int
    questions: tuple[NewParcel, ...] = ()


def weight_of(new: NewTask) -> int:
    """Return about how many bytes a submission holds in memory until it is stored."""
    texts = (getattr(new.work, name, "") for name in ("command", "prompt", "content", "old_string", "new_string"))
    return sum(len(text) for text in texts if isinstance(text, str))


async def submit(tx: Transaction, items: Sequence[NewSubmission]) -> list[Submitted | ClawplaneError]:
    """Store tasks; those with a known idempotency key are answered with what it made before."""
    answers: list[Submitted | ClawplaneError] = []
    for keyed, group in groupby(items, key=lambda item: item.new.idempotency is not None):
        if not keyed:
            answers += [Submitted(task=stored.task) for stored in await store(tx, list(group))]
            continue
        for item in group:  # one by one: two of a batch may carry the same key
            known = await _known(tx, item.new)
            answers.append(known or Submitted(task=(await store(tx, [item]))[0].task))
    return answers


async def _known(tx: Transaction, new: NewTask) -> Submitted | ClawplaneError | None:
    key, digest = new.idempotency or ("", "")
    row = await first(tx.fetch("host_task_of_key", {"owner": new.owner, "idempotency": key}))
    if row is None:
        return None
    return _reused(key) if row[1] != digest else await _replayed(tx, row[0])


async def _replayed(tx: Transaction, task: str) -> Submitted:
    ((*row,),) = await tx.fetch("host_task_by_id", {"id": task})
    return Submitted(task=stored_of(tuple(row)).task, replayed=True)


def _reused(key: str) -> Conflict:
    return Conflict(f"Idempotency-Key: {key!r} was used with another request.", hint="Use a new key for a new request.")


async def store(tx: Transaction, items: Sequence[NewSubmission]) -> list[StoredTask]:
    """Store new tasks with their jobs, conversations and first records; queue those that may start."""
    if not items:
        return []
    items = [item._replace(new=await _in_conversation(tx, _writable(item.new), item.now)) for item in items]
    tasks = [_stored(item.new) for item in items]
    await store_jobs(tx, [_job(item.new) for item in items])
    await tx.many("insert_host_task", [_row(item.new) for item in items])
    await tx.many("insert_host_state", [_state(item.new) for item in items])
    await append_task_events(
        tx, [event for task, item in zip(tasks, items, strict=True) for event in _first_events(task, item.now)]
    )
    await put_parcels(tx, [row for item in items for row in _questions(item)])
    sessions = [
        (task.task.session_id, task.task.type.value.removesuffix("-cli"), task.task.callback_channel, 1, item.now)
        for task, item in zip(tasks, items, strict=True)
        if task.task.type.agent and task.task.session_id
    ]
    await tx.many("touch_agent_session", sessions)
    counter = TaskCounter()
    heads: list[StoredTask] = []
    for task, item in zip(tasks, items, strict=True):
        counter.move(None, TaskStatus.PENDING.value)
        if task.task.session_key is None or await _takes_head(tx, item.new):
            heads.append(task)
    await counter.write(tx)
    await let_in(tx, heads, max(item.now for item in items))
    return tasks


def _first_events(task: StoredTask, now: int) -> list[TaskEvent]:
    events = [task.event("task.created", TaskStatus.PENDING, now)]
    if task.task.approval is Approval.WAITING:
        events.append(task.event("task.approval-needed", TaskStatus.PENDING, now))
    return events


def _questions(item: NewSubmission) -> list[ParcelRow]:
    new = item.new
    return [row_of(parcel, new.id, new.callback_token, item.now) for parcel in new.questions]


def _writable(new: NewTask) -> NewTask:
    """Return a task whose own columns hold no half surrogate pairs; what was asked keeps them, see host_blobs."""
    texts = (new.session_id or "", new.callback_channel or "", new.deliver_to or "", new.callback_url, new.owner)
    if all(map(str.isascii, texts)):
        return new
    return msgspec.structs.replace(
        new,
        session_id=plain_or_none(new.session_id),
        callback_channel=plain_or_none(new.callback_channel),
        deliver_to=plain_or_none(new.deliver_to),
        callback_url=plain(new.callback_url),
        owner=plain(new.owner),
    )


async def _in_conversation(tx: Transaction, new: NewTask, now: int) -> NewTask:
    """Name the conversation of an agent's task by its canonical id, whichever of its ids the caller used."""
    if not new.type.agent or not new.session_id:
        return new
    cli = new.type.value.removesuffix("-cli")
    conversation, bound = await conversation_of(tx, cli, new.session_id)
    if not bound:  # its own name, too: a prefix of it may come next
        await bind(tx, cli, new.session_id, conversation, provider=False, now=now)
    known = bound or conversation != new.session_id
    provider = await provider_of(tx, cli, conversation) if known else None
    key = f"{new.type.value}:{conversation}"
    return msgspec.structs.replace(new, session_key=key, provider_session=provider)


async def _takes_head(tx: Transaction, new: NewTask) -> bool:
    place = {"session_key": new.session_key, "job": new.job}
    if await tx.execute("take_head", place):
        return True
    await tx.execute("insert_behind", place)
    return False


async def let_in(tx: Transaction, tasks: Sequence[StoredTask], now: int) -> None:
    """Queue tasks that are heads, unless they wait for a yes; those whose time has not come wait by the timer."""
    ready: list[tuple[str, int, JobId, int]] = []
    timers: list[tuple[int, JobId, int]] = []
    counts = Counts()
    for stored in tasks:
        task = stored.task
        if task.approval in (Approval.WAITING, Approval.REFUSED):
            continue
        caps = caps_of_task(task.type, task.target)
        if task.not_before is not None and task.not_before > now:
            timers.append((task.not_before, task.job, task.attempt))
            counts.add(caps, ready=1)
        else:
            ready.append((caps, order_of(task.created_at, task.priority), task.job, task.attempt))
    await make_ready(tx, ready)
    await tx.many("insert_timer", timers)
    await counts.write(tx)


async def next_of(tx: Transaction, session_key: str, job: JobId, now: int) -> None:
    """Let the next task of a conversation in, if the one that has ended was its head."""
    if not await tx.execute("release_head", {"session_key": session_key, "job": job}):
        await tx.execute("delete_behind", {"session_key": session_key, "job": job})
        return
    row = await first(tx.fetch("next_behind", {"session_key": session_key}))
    if row is None:
        return
    place = {"session_key": session_key, "job": row[0]}
    await tx.execute("delete_behind", place)
    await tx.execute("take_head", place)
    found = list((await tasks_of_jobs(tx, [JobId(row[0])])).values())
    for stored in found:
        await _tell_provider(tx, stored.task)
    await let_in(tx, found, now)


async def _tell_provider(tx: Transaction, task: HostTask) -> None:
    """Name the CLI's own session to a task whose conversation had none yet when it was submitted."""
    cli, _, conversation = (task.session_key or "").partition("-cli:")
    provider = await provider_of(tx, cli, conversation)
    if provider is not None:
        await tx.execute("set_host_spec", {"spec": pack_spec(_spec(task, provider)), "job": task.job})


async def is_head(tx: Transaction, task: HostTask) -> bool:
    """Tell whether a task is the oldest unfinished one of its conversation."""
    if task.session_key is None:
        return True
    row = await first(tx.fetch("head_of_key", {"session_key": task.session_key}))
    return row is not None and row[1] == task.job


async def retry(tx: Transaction, items: Sequence[Again]) -> list[HostTask | None]:
    """Submit ended tasks again as new ones."""
    results: list[HostTask | None] = []
    for item in items:
        stored = await task_of_id(tx, item.task)
        if stored is None or not stored.task.status.ended:
            results.append(None)
            continue
        old = stored.task
        new = NewTask(
            id=item.new_id,
            job=item.new_job,
            owner=old.owner,
            type=old.type,
            work=old.work,
            created_at=item.now,
            timeout_ms=stored.timeout_ms,
            session_id=old.session_id,
            session_key=old.session_key,
            priority=old.priority,
            on_loss=old.on_loss,
            approval=Approval.NOT_NEEDED if old.approval is Approval.NOT_NEEDED else Approval.WAITING,
            target=old.target,
            cwd=old.cwd,
            env=old.env,
            labels=old.labels,
            callback_channel=old.callback_channel,
            callback_token=stored.callback_token,
            callback_url=old.callback_url,
            deliver_to=stored.deliver_to,
            answer_at=old.answer_at,
            questions=item.questions,
        )
        results.append((await store(tx, [NewSubmission(new, item.now)]))[0].task)
    return results


def _spec(task: NewTask | HostTask, provider: str | None) -> HostSpec:
    return HostSpec(
        task=task.id,
        type=task.type,
        work=task.work,
        created_at=task.created_at,
        cwd=task.cwd,
        env=task.env,
        session_key=task.session_key,
        provider_session=provider,
    )


def _job(new: NewTask) -> NewJob:
    return NewJob(
        id=new.job,
        kind=JobKind.HOST,
        subject=new.id,
        caps=caps_of_task(new.type, new.target),
        ready_at=order_of(new.created_at, new.priority),
        spec=pack_spec(_spec(new, new.provider_session)),
        timeout_ms=new.timeout_ms,
        max_attempts=1 if new.on_loss is OnLoss.FAIL else _MOST_ATTEMPTS,
        silence_ms=NEVER_MS if new.on_loss is OnLoss.HOLD else new.silence_ms,
    )


def _row(new: NewTask) -> tuple[object, ...]:
    asked = Asked(
        work=new.work, target=new.target, cwd=new.cwd, env=new.env, labels=new.labels, answer_at=new.answer_at
    )
    key, digest = new.idempotency or (None, None)
    return (
        new.job,
        new.id,
        new.owner,
        new.type.value,
        new.created_at,
        new.timeout_ms,
        new.session_id,
        new.session_key,
        new.priority,
        new.not_before,
        new.on_loss.value,
        new.callback_channel,
        new.callback_token,
        new.callback_url,
        new.deliver_to,
        pack_asked(asked),
        key,
        digest,
    )


def _state(new: NewTask) -> tuple[object, ...]:
    aging = None if new.approval is Approval.WAITING else max(new.created_at, new.not_before or 0)
    return (new.job, TaskStatus.PENDING.value, new.approval.value, aging)


def _task_of(new: NewTask) -> HostTask:
    return HostTask(
        id=new.id,
        job=new.job,
        owner=new.owner,
        type=new.type,
        status=TaskStatus.PENDING,
        work=new.work,
        created_at=new.created_at,
        started_at=None,
        completed_at=None,
        session_id=new.session_id,
        session_key=new.session_key,
        priority=new.priority,
        not_before=new.not_before,
        on_loss=new.on_loss,
        approval=new.approval,
        target=new.target,
        cwd=new.cwd,
        env=new.env,
        labels=new.labels,
        callback_channel=new.callback_channel,
        callback_url=new.callback_url,
        attempt=0,
        runner=None,
        answer_at=new.answer_at,
        reason="",
    )


def _stored(new: NewTask) -> StoredTask:
    return StoredTask(
        task=_task_of(new),
        callback_token=new.callback_token,
        timeout_ms=new.timeout_ms,
        deliver_to=new.deliver_to,
        server_delivers=True,
    )
