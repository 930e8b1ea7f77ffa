"""Hand results out: once, and only to whoever was there to take them. Beside that: look, cancel, list."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from clawplane.api.openclaw.shapes import listed
from clawplane.api.openclaw.values import bounded_int
from clawplane.api.openclaw.visits import Reply, Visit, answer
from clawplane.domain.errors import InvalidArgument, NotFound
from clawplane.domain.host_ports import TaskFilter
from clawplane.domain.host_tasks import TaskId, TaskStatus, TaskType
from clawplane.domain.ids import JobId

_TASK: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_MAX_WAIT_MS: Final = 60_000
_PAGE: Final = 50
_MAX_PAGE: Final = 500
_STATUSES: Final = frozenset(each.value for each in TaskStatus)
_TYPES: Final = frozenset(each.value for each in TaskType)
_NOT_READY: Final = "Result not ready yet"
_MOST_JOB: Final = (1 << 53) - 1


async def fetch(visit: Visit) -> Reply:
    """Answer with the result and consume it, waiting for it for up to `wait` ms; `peek=1` only looks."""
    task = _task(visit)
    if visit.query.first("peek") == "1":
        return await _look(visit, task, consumed=True)
    wait = bounded_int(visit.query.first("wait"), 0, 0, _MAX_WAIT_MS)
    host = visit.house.host
    try:
        fetched = await host.fetch(task, seconds=wait / 1000, gone=visit.gone())
    except NotFound:
        raise _unknown() from None
    if fetched.result is not None:
        return Reply(fetched.result.body, undo=partial(host.put_back, task))
    return _not_ready(fetched.status or TaskStatus.RUNNING)


async def look(visit: Visit) -> Reply:
    """Answer HEAD: what a fetch would find, untouched."""
    return await _look(visit, _task(visit), consumed=False)


async def _look(visit: Visit, task: TaskId, *, consumed: bool) -> Reply:
    host = visit.house.host
    result = await host.result(task)
    if result is not None:
        if result.consumed_at is not None and not consumed:
            raise _unknown()
        return Reply(result.body)
    try:
        return _not_ready((await host.find(task)).status)
    except NotFound:
        raise _unknown() from None


def _not_ready(status: TaskStatus) -> Reply:
    return answer({"status": status.value, "message": _NOT_READY})


async def cancel(visit: Visit) -> Reply:
    """End a task that waits, or stop one that runs."""
    try:
        task = await visit.house.host.cancel(_task(visit), by=visit.caller.owner)
    except NotFound:
        raise _unknown() from None
    return answer({"success": True, "taskId": task.id, "status": task.status.value})


async def list_tasks(visit: Visit) -> Reply:
    """Answer with tasks, newest first, by status, type, session or runner; `next` goes on behind the last."""
    query = visit.query
    limit = bounded_int(query.first("limit"), _PAGE, 1, _MAX_PAGE)
    before = bounded_int(query.first("before"), 0, 0, _MOST_JOB)
    status, type_ = query.only("status"), query.only("type")
    if status and status not in _STATUSES:
        raise InvalidArgument(f"status: use one of {', '.join(TaskStatus)}")
    if type_ and type_ not in _TYPES:
        raise InvalidArgument(f"type: use one of {', '.join(TaskType)}")
    filter_ = TaskFilter(
        status=TaskStatus(status) if status else None,
        type=TaskType(type_) if type_ else None,
        session_id=query.only("sessionId"),
        runner=query.only("runner"),
    )
    page = await visit.house.host.page(filter_, limit=limit, before=JobId(before) if before else None)
    following = str(page[-1].job) if len(page) == limit else None
    return answer({"tasks": [listed(task) for task in page], "next": following})


def _task(visit: Visit) -> TaskId:
    if _TASK.fullmatch(visit.part) is None:
        raise _unknown()
    return TaskId(visit.part)


def _unknown() -> NotFound:
    return NotFound("Task not found")
