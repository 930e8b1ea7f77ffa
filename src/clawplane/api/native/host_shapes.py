"""The bodies of host tasks (times in milliseconds).

Texts of tasks may hold what JSON can say and UTF-8 cannot (halves of surrogate pairs), so these bodies are written with
ASCII escapes.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.responses import Response

from clawplane.api.calls import Call
from clawplane.domain.host_tasks import (
    Command,
    FileEdit,
    FileRead,
    FileWrite,
    HostTask,
    Prompt,
    StoredResult,
    Target,
    TaskEvent,
)
from clawplane.domain.ids import POLLS
from clawplane.domain.leases import RunnerRecord
from clawplane.flows.explain import Explanation

_SUMMARY: Final = 200


class HostTaskBody(Struct, kw_only=True):
    """A task as lists show it; `summary` is its command, path or prompt, shortened. `env` names its variables."""

    id: str
    type: str
    status: str
    summary: str
    owner: str
    created_at: int
    started_at: int | None
    completed_at: int | None
    session_id: str | None
    priority: int
    not_before: int | None
    on_loss: str
    approval: str
    target: Target
    cwd: str | None
    env: list[str]
    labels: dict[str, str]
    callback_channel: str | None
    callback_url: str
    runner: str | None
    attempt: int
    reason: str


class HostTaskDetail(HostTaskBody, kw_only=True):
    """A task with what it asks for."""

    work: dict[str, Any]


class HostTaskPage(Struct, rename={"items": "list"}):
    """Tasks, newest first; `next` goes into `before` and is null at the end."""

    items: list[HostTaskBody]
    next: str | None


class Submitted(Struct, kw_only=True):
    """A task that was taken; `replayed` when the same idempotency key had made it before."""

    task: HostTaskBody
    replayed: bool


class HostResult(Struct, kw_only=True):
    """How a task ended; only the exit code 0 is success. `duration` in milliseconds."""

    stdout: str
    stderr: str
    exit_code: Any
    error: Any
    completed_at: int
    metadata: dict[str, Any]
    duration: Any


class HostTaskResult(Struct, kw_only=True):
    """A task with its result, null while there is none. Reading it does not consume it."""

    task: HostTaskBody
    result: HostResult | None


class ExplanationBody(Struct, kw_only=True):
    """Why a task stands where it stands; `ahead` counts tasks before it that ask for the same."""

    status: str
    code: str
    reason: str
    hint: str
    ahead: int


class HostRunnerBody(Struct, kw_only=True):
    """A runner that takes host tasks. `running` counts the tasks it has, `slots` how many it takes, 0 when unknown.

    `kind`: link (clawplane's own) or poll (over the Task API). `takes` names groups of task types.
    """

    id: str
    kind: str
    name: str
    version: str
    takes: list[str]
    labels: dict[str, str]
    slots: int
    running: int
    connected: bool
    draining: bool
    last_seen: int


class HostRunnerList(Struct, rename={"items": "list"}):
    """Runners that take host tasks, and how many polls wait for one."""

    items: list[HostRunnerBody]
    parked_polls: int


class HostEventBody(Struct, kw_only=True):
    """One record of the trail; `source` server or runner says who told it."""

    seq: int
    id: str
    type: str
    created_at: int
    task_id: str | None
    task_type: str | None
    task_status: str | None
    session_id: str | None
    origin: str
    dispatch_mode: str
    response_mode: str
    entrypoint: str | None
    details: Any
    source: str


class HostEventList(Struct, rename={"items": "list"}):
    """Records, oldest first."""

    items: list[HostEventBody]


class HostEventStats(Struct, kw_only=True):
    """How many records there are, and the bounds within which they are kept."""

    count: int
    oldest: int | None
    newest: int | None
    retention_days: int
    max_events: int
    by_type: dict[str, int]


class Trimmed(Struct, kw_only=True):
    """What maintenance removed: too old, too many; and what is left."""

    expired: int
    overflow: int
    count: int
    vacuumed: bool


class ToolUseBody(Struct, kw_only=True):
    """A tool use of a running agent that waits for a person; `detail` is its input, shortened."""

    id: str
    tool: str
    detail: str
    cwd: str
    asked_at: int


class ToolUseList(Struct, rename={"items": "list"}):
    """Tool uses that wait, oldest first."""

    items: list[ToolUseBody]


def reply(call: Call, body: Struct, *, status: int = 200) -> Response:
    """Return a body in the envelope."""
    told = {"code": 0, "message": "success", "request_id": call.request_id, "data": msgspec.to_builtins(body)}
    return Response(dumped(told), status_code=status, media_type="application/json")


def dumped(value: object) -> bytes:
    """Return a value as JSON in ASCII."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def task_body(task: HostTask) -> HostTaskBody:
    """Return a task as lists show it."""
    return HostTaskBody(**_members(task))


def task_detail(task: HostTask) -> HostTaskDetail:
    """Return a task with what it asks for."""
    work = msgspec.to_builtins(task.work)
    return HostTaskDetail(**_members(task), work={name: value for name, value in work.items() if name != "type"})


def _members(task: HostTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "type": task.type.value,
        "status": task.status.value,
        "summary": summary_of(task),
        "owner": task.owner,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "completed_at": task.completed_at,
        "session_id": task.session_id,
        "priority": task.priority,
        "not_before": task.not_before,
        "on_loss": task.on_loss.value,
        "approval": task.approval.value,
        "target": task.target,
        "cwd": task.cwd,
        "env": sorted(task.env),
        "labels": task.labels,
        "callback_channel": task.callback_channel,
        "callback_url": task.callback_url,
        "runner": task.runner,
        "attempt": task.attempt,
        "reason": task.reason,
    }


def summary_of(task: HostTask) -> str:
    """Return what a task is about, on one short line."""
    match task.work:
        case Command(command=text) | Prompt(prompt=text):
            found = text
        case FileWrite(path=text) | FileRead(path=text) | FileEdit(path=text):
            found = text
    line = " ".join(found[: _SUMMARY * 4].split())
    return line if len(line) <= _SUMMARY else f"{line[: _SUMMARY - 1]}…"


def result_body(stored: StoredResult) -> HostResult:
    """Return a result in the words of this API."""
    told = json.loads(stored.body)
    return HostResult(
        stdout=told["stdout"],
        stderr=told["stderr"],
        exit_code=told["exitCode"],
        error=told["error"],
        completed_at=told["completedAt"],
        metadata=told["metadata"],
        duration=told.get("duration"),
    )


def explanation_body(task: HostTask, why: Explanation) -> ExplanationBody:
    """Return why a task stands where it stands."""
    return ExplanationBody(status=task.status.value, code=why.code, reason=why.reason, hint=why.hint, ahead=why.ahead)


def runner_body(record: RunnerRecord, running: int) -> HostRunnerBody:
    """Return a runner as it is shown."""
    return HostRunnerBody(
        id=record.id.removeprefix(POLLS),
        kind="poll" if record.id.startswith(POLLS) else "link",
        name=record.name,
        version=record.version,
        takes=sorted(caps.removeprefix("host@") for caps in record.capabilities if caps.startswith("host@")),
        labels=record.labels,
        slots=record.slots.get("host", 0),
        running=running,
        connected=record.connected,
        draining=record.draining,
        last_seen=record.last_seen,
    )


def event_body(event: TaskEvent) -> HostEventBody:
    """Return a record as it is shown."""
    return HostEventBody(**msgspec.structs.asdict(event))
