"""Read the task objects of a Task API (4.1 of the contract): what a server sent is judged before it is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from clawplane.domain.host_tasks import (
    Command,
    FileEdit,
    FileRead,
    FileWrite,
    HostSpec,
    Prompt,
    TaskId,
    TaskType,
    Work,
)

_MOST_ID: Final = 200
_CLIS: Final = {TaskType.CLAUDE: "claude", TaskType.CODEX: "codex", TaskType.GEMINI: "gemini"}


class NoTask(ValueError):
    """An answer to a poll that is neither null nor a task."""


@dataclass(frozen=True, slots=True)
class PolledTask:
    """A task as a poll gave it. `spec` is None when it cannot be done, and `problem` says why.

    claim: by what a runner that names itself holds the task, None with servers that know no claims; server_tells:
    the server said that it delivers the callback. `dispatch` is what events of this task carry.
    """

    id: TaskId
    spec: HostSpec | None
    problem: str = ""
    channel: str = ""
    token: str = field(default="", repr=False)
    direct_callback: bool = False
    server_tells: bool = False
    claim: int | None = None
    attempt: int | None = None
    dispatch: Mapping[str, Any] = field(default_factory=dict)


def read_task(body: bytes) -> PolledTask | None:
    """Return the task in an answer to a poll, None for null; raises NoTask."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise NoTask("the answer is no JSON") from None
    if told is None:
        return None
    if not isinstance(told, dict):
        raise NoTask("the answer is no object")
    task = told.get("id")
    if not isinstance(task, str) or not 0 < len(task) <= _MOST_ID or not isinstance(told.get("status", "running"), str):
        raise NoTask("the answer is an object, but no task")
    spec, problem = _spec(TaskId(task), told)
    agent = spec is not None and spec.type.agent
    return PolledTask(
        id=TaskId(task),
        spec=spec,
        problem=problem,
        channel=_text(told.get("callbackChannel")).strip() if agent else "",
        token=_text(told.get("callbackBotToken")).strip(),
        direct_callback=agent and told.get("responseMode", "direct-callback") == "direct-callback",
        server_tells=told.get("callbacks") == "server",
        claim=_whole(told.get("claim")),
        attempt=_whole(told.get("attempt")),
        dispatch={
            "taskType": told.get("type", "command"),
            "sessionId": told.get("sessionId"),
            "origin": told.get("origin"),
            "dispatchMode": told.get("dispatchMode"),
            "responseMode": told.get("responseMode"),
            "entrypoint": told.get("entrypoint"),
        },
    )


def _spec(task: TaskId, told: Mapping[str, Any]) -> tuple[HostSpec | None, str]:
    kind = told.get("type") or TaskType.COMMAND.value
    try:
        type_ = TaskType(kind)
    except ValueError:
        return None, f"This runner does not know tasks of type {str(kind)[:80]!r}."
    work = _WORKS[type_](type_, told)
    if work is None:
        return None, f"The server sent a task of type {type_.value!r} without what it needs."
    key = told.get("sessionKey")
    env = told.get("env")
    cwd = told.get("cwd")
    if isinstance(work, Prompt) and not isinstance(key, str):
        key = f"{type_.value}:{work.session_id}"
    spec = HostSpec(
        task=task,
        type=type_,
        work=work,
        created_at=_whole(told.get("createdAt")) or 0,
        cwd=cwd if isinstance(cwd, str) and cwd else None,
        env={str(name): value for name, value in env.items() if isinstance(value, str)}
        if isinstance(env, dict)
        else {},
        session_key=key if isinstance(key, str) else None,
    )
    return spec, ""


def _command(type_: TaskType, told: Mapping[str, Any]) -> Work | None:
    command = told.get("command")
    return Command(command=command, timeout=_timeout(told)) if isinstance(command, str) else None


def _write(type_: TaskType, told: Mapping[str, Any]) -> Work | None:
    if not isinstance(told.get("path"), str) or "content" not in told:
        return None
    return FileWrite(path=told["path"], content=told["content"], encoding=told.get("encoding"))


def _read(type_: TaskType, told: Mapping[str, Any]) -> Work | None:
    encoding = told.get("encoding")
    if not isinstance(told.get("path"), str):
        return None
    return FileRead(path=told["path"], encoding=encoding if isinstance(encoding, str) else None)


def _edit(type_: TaskType, told: Mapping[str, Any]) -> Work | None:
    if not isinstance(told.get("path"), str) or "oldString" not in told or "newString" not in told:
        return None
    return FileEdit(
        path=told["path"],
        old_string=told["oldString"],
        new_string=told["newString"],
        replace_all=told.get("replaceAll", False),
    )


def _prompt(type_: TaskType, told: Mapping[str, Any]) -> Work | None:
    prompt = told.get("prompt")
    if not isinstance(prompt, str):
        return None
    budget, tools = told.get("budgetUsd"), told.get("tools")
    return Prompt(
        cli=_CLIS[type_],
        prompt=prompt,
        timeout=_timeout(told),
        session_id=_text(told.get("sessionId")),
        model=_text(told.get("model")) or None,
        model_given=bool(_text(told.get("model"))),
        resume_latest=bool(told.get("resumeLatest")),
        origin=_text(told.get("origin")) or "unknown",
        dispatch_mode=_text(told.get("dispatchMode")) or "unspecified",
        response_mode=_text(told.get("responseMode")) or "direct-callback",
        entrypoint=_text(told.get("entrypoint")) or None,
        budget_usd=float(budget) if isinstance(budget, int | float) and not isinstance(budget, bool) else None,
        tools=tuple(each for each in tools if isinstance(each, str)) if isinstance(tools, list) else (),
        approval=_text(told.get("approval")),
    )


_WORKS: Final[Mapping[TaskType, Callable[[TaskType, Mapping[str, Any]], Work | None]]] = {
    TaskType.COMMAND: _command,
    TaskType.FILE_WRITE: _write,
    TaskType.FILE_READ: _read,
    TaskType.FILE_EDIT: _edit,
    TaskType.CLAUDE: _prompt,
    TaskType.CODEX: _prompt,
    TaskType.GEMINI: _prompt,
}


def _timeout(told: Mapping[str, Any]) -> int:
    """Return the time-out in milliseconds; 0 when the task names none, for which the runner has its own."""
    value = told.get("timeout")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 40:
        return 0
    return int(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
