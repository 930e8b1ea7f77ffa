"""Records of the trail of host tasks, as they are made."""

from __future__ import annotations

from typing import Any

from clawplane.domain.host_results import dispatch_of
from clawplane.domain.host_tasks import HostTask, TaskEvent, TaskStatus


def event_of(
    task: HostTask | None,
    type_: str,
    *,
    at: int,
    details: Any = None,
    status: TaskStatus | None = None,
    task_id: str | None = None,
    source: str = "server",
) -> TaskEvent:
    """Return a record about a task, in the state it has unless `status` says another; the store numbers it.

    `task_id` is for a task that is gone.
    """
    dispatch = dispatch_of(task)
    state = status or (None if task is None else task.status)
    return TaskEvent(
        seq=0,
        id="",
        type=type_,
        created_at=at,
        task_id=task_id if task is None else task.id,
        task_type=None if task is None else task.type.value,
        task_status=None if state is None else state.value,
        session_id=None if task is None else task.session_id,
        origin=dispatch["origin"],
        dispatch_mode=dispatch["dispatchMode"],
        response_mode=dispatch["responseMode"],
        entrypoint=dispatch["entrypoint"],
        details=details,
        source=source,
    )
