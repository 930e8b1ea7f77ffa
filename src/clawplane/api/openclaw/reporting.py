"""Hear what runners report: the ends of tasks, and records for the trail.

Whatever they say is kept as said where the contract wants it so, and nothing the server decides depends on a record
that a runner reported. A report carries the id of its task and nothing else, so the first one ends the task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from clawplane.api.openclaw.shapes import event_record
from clawplane.api.openclaw.values import optional_text, text_of, told_text, truthy
from clawplane.api.openclaw.visits import Reply, Visit, answer, text_of_json
from clawplane.domain.errors import InvalidArgument, NotFound
from clawplane.domain.host_results import dispatch_of
from clawplane.domain.host_tasks import HostTask, Prompt, TaskEvent, TaskId, TaskReport

_MAX_ID: Final = 200
_MAX_TYPE: Final = 200
_MAX_TEXT: Final = 500
_MAX_DETAILS: Final = 16 << 10
_SHOWN_DETAILS: Final = 2 << 10
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DONE: Final = answer({"success": True})


async def result(visit: Visit) -> Reply:
    """End a task by its report; an unknown id is accepted, too, for it may come late."""
    body = await visit.json()
    task = _task_id(body)
    if task is None:
        raise InvalidArgument("taskId is required")
    metadata, duration, code = body.get("metadata"), body.get("duration"), body.get("exitCode")
    report = TaskReport(
        stdout=told_text(body.get("stdout")),
        stderr=told_text(body.get("stderr")),
        exit_code=-1 if code is None else code,
        error=body.get("error") if truthy(body.get("error")) else None,
        duration=duration if isinstance(duration, int | float) and not isinstance(duration, bool) else None,
        metadata=metadata if isinstance(metadata, dict) else {},
    )
    await visit.house.host.report(task, report)
    return _DONE


async def event(visit: Visit) -> Reply:
    """Keep a record; what is known of its task wins over what the runner says of it."""
    body = await visit.json()
    type_ = text_of(body.get("type"))
    if not type_:
        raise InvalidArgument("type is required")
    if len(type_) > _MAX_TYPE:
        raise InvalidArgument(f"type is longer than {_MAX_TYPE} characters")
    task_id = _task_id(body)
    task = None if task_id is None else await _known(visit, task_id)
    metadata = body.get("metadata")
    details = body.get("details")
    record = TaskEvent(
        seq=0,
        id="",
        type=type_,
        created_at=visit.house.clock.now_ms(),
        task_id=task_id,
        details=_bounded(details) if truthy(details) else None,
        source="runner",
        **_about(task, metadata if isinstance(metadata, dict) else {}),
    )
    stored = await visit.house.host.reported_event(record)
    return answer({"success": True, "event": event_record(stored)})


async def _known(visit: Visit, task: TaskId) -> HostTask | None:
    try:
        return await visit.house.host.find(task)
    except NotFound:
        return None


def _task_id(body: Mapping[str, Any]) -> TaskId | None:
    """Return the task that a report names, None for none; raises InvalidArgument for what is no id."""
    value = body.get("taskId")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InvalidArgument("taskId is required")
    if len(value) > _MAX_ID or _CONTROL.search(value) is not None:
        raise InvalidArgument(f"taskId: use up to {_MAX_ID} characters, none of them a control character")
    return TaskId(value)


def _about(task: HostTask | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that its task says, or else the runner."""

    def said(name: str) -> str | None:
        text = optional_text(metadata.get(name))
        return None if text is None else text[:_MAX_TEXT]

    dispatch = dispatch_of(task)
    agent = task is not None and isinstance(task.work, Prompt)
    return {
        "task_type": said("taskType") if task is None else task.type.value,
        "task_status": said("taskStatus") if task is None else task.status.value,
        "session_id": (None if task is None else task.session_id) or said("sessionId"),
        "origin": dispatch["origin"] if agent else said("origin") or dispatch["origin"],
        "dispatch_mode": dispatch["dispatchMode"] if agent else said("dispatchMode") or dispatch["dispatchMode"],
        "response_mode": dispatch["responseMode"] if agent else said("responseMode") or dispatch["responseMode"],
        "entrypoint": dispatch["entrypoint"] if agent else said("entrypoint"),
    }


def _bounded(details: Any) -> Any:
    """Return details as they are, or the beginning of their JSON text when that is too long."""
    text = text_of_json(details)
    if len(text) <= _MAX_DETAILS:
        return details
    beginning = (details if isinstance(details, str) else text)[:_SHOWN_DETAILS]
    return {"truncated": True, "bytes": len(text), "text": beginning}
