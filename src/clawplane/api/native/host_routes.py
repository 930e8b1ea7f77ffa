"""The route table of host tasks. Changing needs the scope `host`, looking any key's `read`."""

from __future__ import annotations

from typing import Any, Final, Literal

from clawplane.api.calls import Handler, Operation, Parameter
from clawplane.api.native import host_approvals, host_events, host_requests, host_tasks
from clawplane.api.native import host_shapes as shapes
from clawplane.api.native.shapes import LogLine
from clawplane.domain.access import Scope

_TASK: Final = "/v1/host/tasks/{taskId}"
_ANSWER: Final = "/v1/host/approvals/{token}"
_NDJSON: Final = "application/x-ndjson"
_FOLLOW: Final = Parameter(name="follow", kind="boolean", description="Go on as more comes.")
_LOG: Final = (
    Parameter(name="after", kind="integer", description="Only what comes behind this seq.", default=0, minimum=0),
    _FOLLOW,
)
_EVENTS: Final = (
    Parameter(name="after", kind="integer", description="Only what comes behind this seq; else the newest.", minimum=0),
    _FOLLOW,
    Parameter(name="task", kind="string", description="Only records of this task."),
    Parameter(name="type", kind="string", description="Only records of this type, such as `task.failed`."),
    Parameter(name="limit", kind="integer", description="How many.", default=50, minimum=1, maximum=500),
)
_LIST: Final = (
    host_tasks.STATUS,
    host_tasks.TYPE,
    host_tasks.SESSION,
    host_tasks.RUNNER,
    host_tasks.BEFORE,
    host_tasks.LIMIT,
)


def operations() -> list[Operation]:
    """Return the table."""
    return [*_tasks(), *_decisions(), *_around()]


def _tasks() -> list[Operation]:
    one = shapes.HostTaskBody
    return [
        _write(
            "/v1/host/tasks",
            "submitHostTask",
            "Submit a command, file operation or prompt",
            host_tasks.submit,
            data=shapes.Submitted,
            body=host_requests.Submission,
            body_required=True,
        ),
        _read("/v1/host/tasks", "listHostTasks", "List tasks", host_tasks.list_tasks, shapes.HostTaskPage, query=_LIST),
        _read(_TASK, "getHostTask", "Get a task", host_tasks.get_task, shapes.HostTaskDetail),
        _read(
            f"{_TASK}/result",
            "getHostTaskResult",
            "Get a result without consuming it",
            host_tasks.get_result,
            shapes.HostTaskResult,
            query=(host_tasks.WAIT,),
        ),
        _read(
            f"{_TASK}/log",
            "streamHostTaskLog",
            "Stream what a task prints, as NDJSON or server-sent events",
            host_tasks.get_log,
            LogLine,
            query=_LOG,
            media=_NDJSON,
        ),
        _read(
            f"{_TASK}/explain",
            "explainHostTask",
            "Say why a task is not running",
            host_tasks.explain_task,
            shapes.ExplanationBody,
        ),
        _write(f"{_TASK}/cancel", "cancelHostTask", "Cancel a task", host_tasks.cancel, data=one),
        _write(f"{_TASK}/retry", "retryHostTask", "Submit an ended task again", host_tasks.retry, data=one),
    ]


def _decisions() -> list[Operation]:
    one, body = shapes.HostTaskBody, host_requests.DecisionBody
    return [
        _write(
            f"{_TASK}/approve",
            "approveHostTask",
            "Let a task start, or a tool use go on",
            host_tasks.approve,
            data=one,
            body=body,
        ),
        _write(
            f"{_TASK}/refuse", "refuseHostTask", "Refuse a task, or a tool use", host_tasks.refuse, data=one, body=body
        ),
        _read(
            f"{_TASK}/tool-uses",
            "listHostToolUses",
            "List tool uses that wait for a person",
            host_tasks.list_tool_uses,
            shapes.ToolUseList,
        ),
        _line(
            "GET",
            _ANSWER,
            "getHostApproval",
            "Show the question that a link answers, as a page or as JSON",
            host_approvals.look,
            scope=None,
            data=host_approvals.QuestionBody,
        ),
        _line(
            "POST",
            _ANSWER,
            "answerHostApproval",
            "Answer the question of a link, by form or JSON",
            host_approvals.answer,
            scope=None,
            body=host_approvals.AnswerBody,
            body_required=True,
            data=host_approvals.QuestionBody,
        ),
    ]


def _around() -> list[Operation]:
    return [
        _read(
            "/v1/host/runners",
            "listHostRunners",
            "List the runners that take host tasks",
            host_events.list_runners,
            shapes.HostRunnerList,
        ),
        _read(
            "/v1/host/events",
            "listHostEvents",
            "List or follow the trail of host tasks",
            host_events.list_events,
            shapes.HostEventList,
            query=_EVENTS,
        ),
        _read(
            "/v1/host/events/stats",
            "getHostEventStats",
            "Count the trail",
            host_events.event_stats,
            shapes.HostEventStats,
        ),
        _write(
            "/v1/host/events/maintenance",
            "maintainHostEvents",
            "Trim the trail now",
            host_events.maintain,
            data=shapes.Trimmed,
            body=host_requests.MaintenanceBody,
        ),
    ]


def _read(path: str, name: str, summary: str, handler: Handler, data: object, **more: Any) -> Operation:
    return _line("GET", path, name, summary, handler, scope=Scope.READ, data=data, **more)


def _write(path: str, name: str, summary: str, handler: Handler, **more: Any) -> Operation:
    return _line("POST", path, name, summary, handler, scope=Scope.HOST, **more)


def _line(
    method: Literal["GET", "POST"], path: str, name: str, summary: str, handler: Handler, **more: Any
) -> Operation:
    return Operation(method=method, path=path, operation_id=name, summary=summary, handler=handler, tag="host", **more)
