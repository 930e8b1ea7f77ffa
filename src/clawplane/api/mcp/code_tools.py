"""The tools that execute code."""

from __future__ import annotations

from contextlib import aclosing

from mcp_types import CallToolResult

from clawplane.api.mcp import answers
from clawplane.api.mcp.arguments import ExecuteNode, ExecutePython, ExecuteShell, ResetRepl
from clawplane.api.mcp.calls import ToolCall
from clawplane.api.mcp.progress import Tail, reporting
from clawplane.domain.asks import Reset
from clawplane.domain.errors import ClawplaneError, InternalError
from clawplane.domain.session_rules import check_code, check_timeout
from clawplane.domain.sessions import ExecRequest, ExecResult, LiveState, Tool


async def execute_python(call: ToolCall, given: ExecutePython) -> CallToolResult:
    """Run Python in the session's interpreter."""
    return await _execute(call, "python", given.code, given.timeout, given.session_id)


async def execute_shell(call: ToolCall, given: ExecuteShell) -> CallToolResult:
    """Run a command in bash."""
    return await _execute(call, "shell", given.command, given.timeout, given.session_id)


async def execute_node(call: ToolCall, given: ExecuteNode) -> CallToolResult:
    """Run JavaScript in Node.js."""
    return await _execute(call, "node", given.code, given.timeout, given.session_id)


async def reset_repl(call: ToolCall, given: ResetRepl) -> CallToolResult:
    """Replace the session's interpreter."""
    session = await call.session(given.session_id)
    try:
        await call.ask(session.id, "reset", Reset(), LiveState)
    except ClawplaneError as error:
        return answers.refusal(error, session_id=session.id, as_code=True)
    session = await call.sessions.find(call.caller, session.id)
    return answers.reply(
        answers.CodeAnswer(
            stdout="Python REPL reset.\n",
            stderr="",
            error=None,
            session_id=session.id,
            session=answers.times_of(session),
        )
    )


async def _execute(call: ToolCall, tool: Tool, code: str, timeout: float, session_id: str | None) -> CallToolResult:
    check_code(code, "command" if tool == "shell" else "code")
    seconds = check_timeout(timeout)
    session = await call.session(session_id)

    request = call.sessions.request(tool, code, timeout=seconds)
    try:
        async with reporting(call.report, interval=call.interval) as tail:
            result = await _result(call, session.id, request, tail)
    except ClawplaneError as error:  # the session is there: its id must not be lost with the answer
        return answers.refusal(error, session_id=session.id, as_code=True)
    return answers.code_reply(result, await call.sessions.find(call.caller, session.id))


async def _result(call: ToolCall, session_id: str, request: ExecRequest, tail: Tail) -> ExecResult:
    async with aclosing(call.sessions.execute(call.caller, session_id, request)) as pieces:
        async for piece in pieces:
            if isinstance(piece, ExecResult):
                return piece
            tail.hear(piece)
    raise InternalError("An exec ended without a result.")
