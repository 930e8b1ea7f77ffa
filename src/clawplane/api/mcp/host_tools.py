"""The tools for machines that people own: each submits one host task and waits for its end for a while.

What has not ended when the wait is over goes on; its answer names the task, and `task_result` takes up the waiting. A
call that the client takes back cancels the task that it submitted, for nobody knows its id.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from mcp_types import CallToolResult
from msgspec import Struct

from clawplane.api.mcp import answers
from clawplane.api.mcp.calls import ToolCall
from clawplane.api.mcp.host_arguments import (
    MOST_SHOWN,
    Ask,
    FileEdit,
    FileRead,
    FileWrite,
    RunCommand,
    TaskOnly,
    TaskResult,
)
from clawplane.api.mcp.progress import Tail, reporting
from clawplane.api.native import host_requests
from clawplane.domain.access import Caller, Scope
from clawplane.domain.errors import ClawplaneError, NotFound, NotImplementedHere
from clawplane.domain.host_tasks import HostTask, StoredResult, TaskId, TaskStatus
from clawplane.domain.sessions import ExecEvent
from clawplane.flows.host_tasks import HostWork
from clawplane.flows.results import Results

_ENCODINGS = {"text": "utf8", "base64": "base64"}


@dataclass(frozen=True, slots=True)
class HostDesk:
    """What these tools call: the flow, and the live output."""

    work: HostWork
    results: Results
    leaving: set[asyncio.Task[None]] = field(default_factory=set)
    """Cancellations that nobody waits for."""


class HostAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a task stands; `exit_code` and `error` are null until it has ended, and `error` also on success.

    waiting: why it has not ended. omitted: how many characters of stdout were left out, and where they begin.
    """

    task_id: str
    status: TaskStatus
    stdout: str
    stderr: str
    exit_code: int | None
    error: str | None
    session_id: str = ""
    runner: str = ""
    duration_ms: int | None = None
    waiting: str = ""
    hint: str = ""
    omitted: int = 0


async def run_command(call: ToolCall, given: RunCommand) -> CallToolResult:
    """Run a command in the machine's shell."""
    task = host_requests.CommandTask(
        command=given.command, timeout_ms=round(given.timeout * 1000), env=given.env, **_place(given)
    )
    return await _do(call, task, given.wait)


async def file_read(call: ToolCall, given: FileRead) -> CallToolResult:
    """Read a file of the machine."""
    encoding: Any = _ENCODINGS[given.encoding]
    return await _do(call, host_requests.FileReadTask(path=given.path, encoding=encoding, **_place(given)), given.wait)


async def file_write(call: ToolCall, given: FileWrite) -> CallToolResult:
    """Write a file of the machine."""
    encoding: Any = _ENCODINGS[given.encoding]
    task = host_requests.FileWriteTask(path=given.path, content=given.content, encoding=encoding, **_place(given))
    return await _do(call, task, given.wait)


async def file_edit(call: ToolCall, given: FileEdit) -> CallToolResult:
    """Replace text in a file of the machine."""
    task = host_requests.FileEditTask(
        path=given.path, old=given.old, new=given.new, everywhere=given.everywhere, **_place(given)
    )
    return await _do(call, task, given.wait)


async def ask_claude(call: ToolCall, given: Ask) -> CallToolResult:
    """Give Claude Code a prompt."""
    return await _do(call, host_requests.ClaudeTask(**_prompt(given)), given.wait)


async def ask_codex(call: ToolCall, given: Ask) -> CallToolResult:
    """Give Codex a prompt."""
    return await _do(call, host_requests.CodexTask(**_prompt(given)), given.wait)


async def ask_gemini(call: ToolCall, given: Ask) -> CallToolResult:
    """Give Gemini CLI a prompt."""
    return await _do(call, host_requests.GeminiTask(**_prompt(given)), given.wait)


async def task_result(call: ToolCall, given: TaskResult) -> CallToolResult:
    """Return a task's result, waiting for it."""
    desk = _desk(call)
    task = await _find(desk, call.caller, given.task_id)
    result = await _wait(call, desk, task, given.wait)
    return await _answer(desk, task.id, result, given.offset)


async def task_cancel(call: ToolCall, given: TaskOnly) -> CallToolResult:
    """Cancel a task."""
    desk = _desk(call)
    task = await _find(desk, call.caller, given.task_id)
    await desk.work.cancel(task.id, by=call.caller.owner)
    return await _answer(desk, task.id, await desk.work.result(task.id), 0, asked_for=True)


def _place(given: Any) -> dict[str, Any]:
    where: dict[str, Any] = {"target": host_requests.TargetBody(runner=given.runner)} if given.runner else {}
    if getattr(given, "cwd", ""):
        where["cwd"] = given.cwd
    return where


def _prompt(given: Ask) -> dict[str, Any]:
    more = {"session_id": given.session_id or None, "model": given.model or None}
    return {"prompt": given.prompt, "timeout_ms": round(given.timeout * 1000), **more, **_place(given)}


def _desk(call: ToolCall) -> HostDesk:
    if call.host is None:
        raise NotImplementedHere("This control plane takes no host tasks.")
    return call.host


async def _find(desk: HostDesk, caller: Caller, task_id: str) -> HostTask:
    task = await desk.work.find(TaskId(task_id))
    if task.owner != caller.owner and not caller.may(Scope.ADMIN):
        raise NotFound(f"There is no host task {task_id!r}.")
    return task


async def _do(call: ToolCall, wanted: host_requests.Submission, seconds: float) -> CallToolResult:
    desk = _desk(call)
    made = await desk.work.submit(host_requests.checked(wanted), owner=call.caller.owner)
    try:
        result = await _wait(call, desk, made.task, seconds)
    except asyncio.CancelledError:
        leaving = asyncio.create_task(_take_back(desk, made.task, call.caller.owner))
        desk.leaving.add(leaving)
        leaving.add_done_callback(desk.leaving.discard)
        raise
    return await _answer(desk, made.task.id, result, 0)


async def _take_back(desk: HostDesk, task: HostTask, by: str) -> None:
    try:
        await desk.work.cancel(task.id, by=by)
    except ClawplaneError:
        return  # it has ended


async def _wait(call: ToolCall, desk: HostDesk, task: HostTask, seconds: float) -> StoredResult | None:
    """Return the result as soon as it is there, telling what the task prints meanwhile, or why it waits."""
    async with reporting(call.report, interval=call.interval) as tail:
        telling = asyncio.create_task(_tell(desk, task, tail))
        try:
            return await desk.work.await_result(task.id, seconds=seconds)
        finally:
            telling.cancel()
            await asyncio.wait([telling])


async def _tell(desk: HostDesk, task: HostTask, tail: Tail) -> None:
    async def ended() -> bool:
        return (await desk.work.find(task.id)).status.ended

    if task.status is TaskStatus.PENDING:
        tail.hear(ExecEvent(type="ping", text=(await desk.work.explain(task)).reason))
    async with aclosing(desk.results.follow_log(task.id, 0, ended, closes=False)) as pages:
        async for lines in pages:
            for line in lines:
                tail.hear(ExecEvent(type="stdout", text=f"{line.content}\n"))


async def _answer(
    desk: HostDesk, task_id: TaskId, result: StoredResult | None, offset: int, *, asked_for: bool = False
) -> CallToolResult:
    task = await desk.work.find(task_id)
    if result is None:
        why = await desk.work.explain(task)
        hint = f"{why.hint} Ask task_result for it with this task_id.".strip()
        waiting = HostAnswer(
            task_id=task.id,
            status=task.status,
            stdout="",
            stderr="",
            exit_code=None,
            error=None,
            session_id=_clean(task.session_id or ""),
            runner=task.runner or "",
            waiting=why.reason,
            hint=hint,
        )
        return answers.reply(waiting)
    told = json.loads(result.body)
    code, failed = told["exitCode"], task.status is not TaskStatus.COMPLETED
    stdout, omitted = _shown(str(told["stdout"]), offset)
    ended = HostAnswer(
        task_id=task.id,
        status=task.status,
        stdout=stdout,
        stderr=_shown(str(told["stderr"]), 0)[0],
        exit_code=code if isinstance(code, int) and not isinstance(code, bool) else None,
        error=_clean(str(told["error"] or "The task failed.")) if failed else None,
        session_id=_clean(task.session_id or ""),
        runner=task.runner or "",
        duration_ms=told["duration"] if isinstance(told.get("duration"), int) else None,
        omitted=omitted,
        hint=f"task_result with offset {offset + len(stdout)} shows more of stdout." if omitted else "",
    )
    return answers.reply(ended, error=failed and not asked_for)


def _shown(text: str, offset: int) -> tuple[str, int]:
    """Return a piece of a stream, and how much follows it."""
    piece = text[offset : offset + MOST_SHOWN]
    return _clean(piece), max(0, len(text) - offset - len(piece))


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
