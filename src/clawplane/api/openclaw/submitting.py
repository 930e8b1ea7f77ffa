"""Take tasks: one handler per kind, each reads its own fields and hands the rest to `fields`."""

from __future__ import annotations

import posixpath
import uuid
from typing import Any, Final

from clawplane.api.openclaw import fields
from clawplane.api.openclaw.values import bounded_int, one_of, optional_text, text_of, truthy
from clawplane.api.openclaw.visits import Handler, Reply, Visit, answer
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_tasks import (
    MAX_TIMEOUT_MS,
    MIN_TIMEOUT_MS,
    Command,
    FileEdit,
    FileRead,
    FileWrite,
    Prompt,
    Work,
)

_COMMAND_MS: Final = 30_000
_DISPATCH_MODES: Final = frozenset({"direct-command", "agent-tool"})
_RESPONSE_MODES: Final = frozenset({"direct-callback"})
_CLIS: Final = {"claude": ("Claude", 120_000, "cc"), "codex": ("Codex", 300_000, "codex"),
                "gemini": ("Gemini", 300_000, "gemini")}  # fmt: skip


async def command(visit: Visit) -> Reply:
    """Take a shell command."""
    body = await visit.json()
    text = text_of(body.get("command"))
    if not text:
        raise InvalidArgument("command is required")
    task = await _submit(visit, body, Command(command=text, timeout=_timeout(body, _COMMAND_MS)))
    return answer({"taskId": task, "message": "Task created, waiting for reconciler"})


async def file_write(visit: Visit) -> Reply:
    """Take a file to be written; its content is any JSON value."""
    body = await visit.json()
    path = text_of(body.get("path"))
    if not path or "content" not in body:
        raise InvalidArgument("path and content are required")
    _check_path(visit, path)
    work = FileWrite(path=path, content=body["content"], encoding=body.get("encoding", "utf8"))
    return answer({"taskId": await _submit(visit, body, work), "message": "File write task created"})


async def file_read(visit: Visit) -> Reply:
    """Take a file to be read; `encoding` base64 is additive."""
    body = await visit.json()
    path = text_of(body.get("path"))
    if not path:
        raise InvalidArgument("path is required")
    _check_path(visit, path)
    work = FileRead(path=path, encoding="base64" if body.get("encoding") == "base64" else None)
    return answer({"taskId": await _submit(visit, body, work), "message": "File read task created"})


async def file_edit(visit: Visit) -> Reply:
    """Take a replacement in a file."""
    body = await visit.json()
    path = text_of(body.get("path"))
    if not path or "old_string" not in body or "new_string" not in body:
        raise InvalidArgument("path, old_string, new_string are required")
    _check_path(visit, path)
    work = FileEdit(
        path=path,
        old_string=body["old_string"],
        new_string=body["new_string"],
        replace_all=body.get("replace_all", False),
    )
    return answer({"taskId": await _submit(visit, body, work), "message": "File edit task created"})


def prompt(cli: str) -> Handler:
    """Return the handler that takes prompts for an agent CLI."""
    label, default_ms, entrypoint = _CLIS[cli]

    async def take(visit: Visit) -> Reply:
        body = await visit.json()
        text = body.get("prompt")
        if not isinstance(text, str) or not text_of(text):
            raise InvalidArgument("prompt is required")
        session = optional_text(body.get("sessionId"))
        if session is not None and len(session) > fields.MAX_ID:
            raise InvalidArgument(f"sessionId is longer than {fields.MAX_ID} characters")
        model = optional_text(body.get("model"))
        work = Prompt(
            cli=cli,
            prompt=text,
            timeout=_timeout(body, default_ms),
            session_id=session or str(uuid.uuid4()),
            model=model,
            model_given=model is not None,
            resume_latest=cli == "gemini" and (truthy(body.get("resumeLatest")) or session is not None),
            origin=optional_text(body.get("origin")) or "unknown",
            dispatch_mode=one_of(body.get("dispatchMode"), _DISPATCH_MODES, "unspecified"),
            response_mode=one_of(body.get("responseMode"), _RESPONSE_MODES, "direct-callback"),
            entrypoint=optional_text(body.get("entrypoint")) or entrypoint,
            budget_usd=fields.budget(body),
            tools=fields.tools(body),
            approval=fields.tool_approval(body),
        )
        request = fields.request_of(
            work,
            body,
            headers=visit.headers,
            endpoint=cli,
            channel=optional_text(body.get("callbackChannel")),
            token=optional_text(body.get("callbackBotToken")),
            arrived_at=visit.address if fields.asks(body) else "",
        )
        task = (await visit.house.host.submit(request, owner=visit.caller.owner)).task
        return answer({"taskId": task.id, "sessionId": task.session_id, "message": f"{label} CLI task created"})

    return take


async def _submit(visit: Visit, body: dict[str, Any], work: Work) -> str:
    endpoint = type(work).__name__
    if body.get("approval") == "tools":
        raise InvalidArgument("approval: only agents use tools; use true to have the task wait")
    address = visit.address if fields.asks(body) else ""
    request = fields.request_of(work, body, headers=visit.headers, endpoint=endpoint, arrived_at=address)
    return (await visit.house.host.submit(request, owner=visit.caller.owner)).task.id


def _timeout(body: dict[str, Any], default: int) -> int:
    return bounded_int(body.get("timeout"), default, MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)


def _check_path(visit: Visit, path: str) -> None:
    if visit.house.options.strict_paths and ".." in path and posixpath.normpath(path) != path:
        raise InvalidArgument("Path contains disallowed traversal (..)")
