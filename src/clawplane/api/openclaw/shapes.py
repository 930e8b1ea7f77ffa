"""The Task API's objects, keys in the order of its tables."""

from __future__ import annotations

from typing import Any

from clawplane.domain.host_tasks import (
    AgentSession,
    Command,
    FileEdit,
    FileRead,
    FileWrite,
    HostTask,
    Prompt,
    TaskEvent,
)


def task_object(task: HostTask, token: str | None, *, fence: int | None) -> dict[str, Any]:
    """Return a claimed task as its runner gets it; additive keys follow.

    `fence` is told to runners that name themselves: they hold the task by it in their heartbeats.
    """
    return {
        "id": task.id,
        "status": task.status.value,
        "createdAt": task.created_at,
        **_work(task, token),
        "startedAt": task.started_at,
        "completedAt": None,
        **_additive(task, fence),
    }


def _work(task: HostTask, token: str | None) -> dict[str, Any]:
    kind, work = task.type.value, task.work
    match work:
        case Command():
            return {"command": work.command, "timeout": work.timeout, "type": kind}
        case FileWrite():
            return {"type": kind, "path": work.path, "content": work.content, "encoding": work.encoding}
        case FileRead():
            return {"type": kind, "path": work.path}
        case FileEdit():
            return {
                "type": kind,
                "path": work.path,
                "oldString": work.old_string,
                "newString": work.new_string,
                "replaceAll": work.replace_all,
            }
    return {"type": kind, **_prompt(work, task.callback_channel, token)}


def _prompt(work: Prompt, channel: str | None, token: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"prompt": work.prompt, "timeout": work.timeout, "sessionId": work.session_id}
    if work.cli == "gemini":
        told["resumeLatest"] = work.resume_latest
    if work.cli != "claude" or work.model_given:
        told["model"] = work.model
    told["callbackChannel"] = channel
    told["callbackBotToken"] = token
    told["origin"] = work.origin
    told["dispatchMode"] = work.dispatch_mode
    told["responseMode"] = work.response_mode
    told["entrypoint"] = work.entrypoint
    return told


def _additive(task: HostTask, fence: int | None) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if task.cwd is not None:
        more["cwd"] = task.cwd
    if task.env:
        more["env"] = task.env
    if isinstance(task.work, FileRead) and task.work.encoding is not None:
        more["encoding"] = task.work.encoding
    if isinstance(task.work, Prompt):
        more |= _agent_wishes(task.work)
    if fence is not None:
        more |= {"claim": fence, "attempt": task.attempt, "sessionKey": task.session_key}
    return more


def _agent_wishes(work: Prompt) -> dict[str, Any]:
    wishes = {"budgetUsd": work.budget_usd, "tools": list(work.tools), "approval": work.approval}
    return {name: value for name, value in wishes.items() if value}


def listed(task: HostTask) -> dict[str, Any]:
    """Return a task as the list shows it: what it is and how it stands, not what it says."""
    return {
        "id": task.id,
        "type": task.type.value,
        "status": task.status.value,
        "createdAt": task.created_at,
        "startedAt": task.started_at,
        "completedAt": task.completed_at,
        "sessionId": task.session_id,
        "priority": task.priority,
        "notBefore": task.not_before,
        "approval": task.approval.value,
        "labels": task.labels,
        "runner": task.runner,
        "attempt": task.attempt,
        "reason": task.reason or None,
    }


def event_record(event: TaskEvent) -> dict[str, Any]:
    """Return a record of the trail; `seq` and `source` are additive."""
    return {
        "id": event.id,
        "type": event.type,
        "createdAt": event.created_at,
        "taskId": event.task_id,
        "taskType": event.task_type,
        "taskStatus": event.task_status,
        "sessionId": event.session_id,
        "origin": event.origin,
        "dispatchMode": event.dispatch_mode,
        "responseMode": event.response_mode,
        "entrypoint": event.entrypoint,
        "details": event.details,
        "seq": event.seq,
        "source": event.source,
    }


def session_state(session: AgentSession) -> dict[str, Any]:
    """Return a conversation as `/sessions/state` shows it."""
    return {
        "sessionId": session.session_id,
        "cliType": session.cli_type,
        "callbackChannel": session.callback_channel,
        "taskCount": session.task_count,
        "lastActivity": session.last_activity,
        "createdAt": session.created_at,
    }
