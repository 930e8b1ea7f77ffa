"""Read submissions of host tasks: shapes are checked here, names and addresses as the Task API checks them."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from msgspec import Meta, Struct

from clawplane.api.calls import Call
from clawplane.api.openclaw import fields
from clawplane.domain.errors import InvalidArgument, InvalidSchema
from clawplane.domain.host_tasks import (
    MAX_TIMEOUT_MS,
    MIN_TIMEOUT_MS,
    MOST_PRIORITY,
    Command,
    FileEdit,
    FileRead,
    FileWrite,
    OnLoss,
    Prompt,
    Work,
)
from clawplane.flows.host_tasks import TaskRequest

_MONTH_MS: Final = 30 * 86_400_000
_NO_CALLBACK: Final = "none"
_RENAMED: Final = {"callbackUrl": "callback_url", "delay:": "delay_ms:", "Idempotency-Key": "idempotency_key"}

Timeout = Annotated[int, Meta(ge=MIN_TIMEOUT_MS, le=MAX_TIMEOUT_MS)]
_Path = Annotated[str, Meta(min_length=1, max_length=4096)]
_Name = Annotated[str, Meta(max_length=200)]


class TargetBody(Struct, forbid_unknown_fields=True):
    """Where a task may run: on the runner of this name or id, or on one that has all these labels."""

    runner: str = ""
    labels: dict[str, str] = {}


class _Task(Struct, kw_only=True, forbid_unknown_fields=True):
    """What all submissions have in common; times in milliseconds."""

    priority: Annotated[int, Meta(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = 0
    delay_ms: Annotated[int, Meta(ge=0, le=_MONTH_MS)] = 0
    on_loss: OnLoss | None = None
    target: TargetBody | None = None
    cwd: str | None = None
    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    callback_url: str | None = None
    idempotency_key: str = ""


class CommandTask(_Task, tag="command"):
    """A shell command. With `approval` it waits for a person's yes."""

    command: Annotated[str, Meta(min_length=1)]
    timeout_ms: Timeout = 30_000
    approval: bool = False


class FileWriteTask(_Task, tag="file-write"):
    """Write a file; `encoding` base64 for bytes."""

    path: _Path
    content: str
    encoding: Literal["utf8", "base64"] = "utf8"
    approval: bool = False


class FileReadTask(_Task, tag="file-read"):
    """Read a file; `encoding` base64 for bytes."""

    path: _Path
    encoding: Literal["utf8", "base64"] = "utf8"
    approval: bool = False


class FileEditTask(_Task, tag="file-edit"):
    """Replace text in a file, once or everywhere."""

    path: _Path
    old: Annotated[str, Meta(min_length=1)]
    new: str
    everywhere: bool = False
    approval: bool = False


class _AgentTask(_Task):
    """What prompts have in common. `approval`: true before it starts, "tools" before every tool use."""

    prompt: Annotated[str, Meta(min_length=1)]
    session_id: _Name | None = None
    model: _Name | None = None
    budget_usd: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    tools: list[_Name] = []
    approval: bool | Literal["tools"] = False
    callback_channel: _Name | None = None
    callback_token: Annotated[str, Meta(max_length=4096)] | None = None


class ClaudeTask(_AgentTask, tag="claude-cli"):
    """A prompt for Claude Code; tasks of one `session_id` run one after the other."""

    timeout_ms: Timeout = 600_000


class CodexTask(_AgentTask, tag="codex-cli"):
    """A prompt for Codex."""

    timeout_ms: Timeout = 600_000


class GeminiTask(_AgentTask, tag="gemini-cli"):
    """A prompt for Gemini CLI."""

    timeout_ms: Timeout = 600_000


Submission = CommandTask | FileWriteTask | FileReadTask | FileEditTask | ClaudeTask | CodexTask | GeminiTask


class DecisionBody(Struct, forbid_unknown_fields=True):
    """A person's word; `tool_use` names one tool use of a running agent, without it the task itself is meant."""

    tool_use: Annotated[str, Meta(max_length=100)] = ""
    reason: Annotated[str, Meta(max_length=400)] = ""


class MaintenanceBody(Struct, forbid_unknown_fields=True):
    """What to do beside trimming the trail: give free pages back to the file system."""

    vacuum: bool = False


async def request_of(call: Call) -> TaskRequest:
    """Return the submission that a call carries; raises InvalidSchema."""
    given = await call.body(cast("type[Submission]", Submission))
    key = given.idempotency_key or call.request.headers.get("idempotency-key", "")
    return checked(given, key, arrived_at=call.url("") if given.approval else "")


def checked(given: Submission, key: str = "", *, arrived_at: str = "") -> TaskRequest:
    """Return a submission, checked; `key` makes it happen once."""
    more = msgspec.to_builtins(given)
    body = {name: more[name] for name in ("priority", "target", "cwd", "env", "labels", "approval")}
    body |= {"delay": given.delay_ms, "onLoss": given.on_loss, "callbackUrl": given.callback_url}
    channel, token = (given.callback_channel, given.callback_token) if isinstance(given, _AgentTask) else (None, None)
    try:
        return fields.request_of(
            _work(given),
            {**body, "all": {name: value for name, value in more.items() if name != "idempotency_key"}},
            headers={b"idempotency-key": key.encode("utf-8", "replace")},
            endpoint="host",
            channel=channel,
            token=token,
            arrived_at=arrived_at,
        )
    except InvalidArgument as error:
        message = error.message
        for name, ours in _RENAMED.items():
            message = message.replace(name, ours)
        raise InvalidSchema(f"{message}.", hint=error.hint) from None


def _work(given: Submission) -> Work:
    match given:
        case CommandTask():
            if not given.command.strip():
                raise InvalidSchema("command: it is empty.", hint="Send what the shell shall run.")
            return Command(command=given.command, timeout=given.timeout_ms)
        case FileWriteTask():
            return FileWrite(path=given.path, content=given.content, encoding=given.encoding)
        case FileReadTask():
            return FileRead(path=given.path, encoding="base64" if given.encoding == "base64" else None)
        case FileEditTask():
            return FileEdit(path=given.path, old_string=given.old, new_string=given.new, replace_all=given.everywhere)
    return _prompt(given)


def _prompt(given: Any) -> Prompt:
    if not given.prompt.strip():
        raise InvalidSchema("prompt: it is empty.", hint="Send what the agent shall do.")
    cli = {ClaudeTask: "claude", CodexTask: "codex", GeminiTask: "gemini"}[type(given)]
    return Prompt(
        cli=cli,
        prompt=given.prompt,
        timeout=given.timeout_ms,
        session_id=given.session_id or str(uuid.uuid4()),
        model=given.model,
        model_given=given.model is not None,
        resume_latest=cli == "gemini" and given.session_id is not None,
        origin="native",
        response_mode="direct-callback" if given.callback_channel else _NO_CALLBACK,
        entrypoint="host",
        budget_usd=given.budget_usd,
        tools=tuple(given.tools),
        approval="tools" if given.approval == "tools" else "",
    )
