"""The tools that look after sessions."""

from __future__ import annotations

from typing import Final

from mcp_types import CallToolResult

from clawplane.api.mcp import answers
from clawplane.api.mcp.arguments import SessionCreate, SessionList, SessionOnly, SessionRollback
from clawplane.api.mcp.calls import ToolCall
from clawplane.domain.asks import Rollback
from clawplane.domain.session_rules import check_name, check_workspace
from clawplane.domain.sessions import LiveState, Session, SessionOptions

_MOST_LISTED: Final = 100


async def session_create(call: ToolCall, given: SessionCreate) -> CallToolResult:
    """Create a session."""
    workspace = None if given.workspace is None else check_workspace(given.workspace)
    options = SessionOptions(profile=given.profile, workspace=workspace, name=check_name(given.name))
    return answers.reply(_described(await call.sessions.create(call.caller, options)))


async def session_list(call: ToolCall, given: SessionList) -> CallToolResult:
    """List the caller's sessions."""
    found = await call.sessions.all(call.caller)
    listed = tuple(_described(session) for session in found[:_MOST_LISTED])
    return answers.reply(answers.SessionsAnswer(sessions=listed, more=len(found) > _MOST_LISTED))


async def session_state(call: ToolCall, given: SessionOnly) -> CallToolResult:
    """Describe a session as its runner last did; a sleeping one goes on sleeping."""
    session = await call.sessions.find(call.caller, given.session_id)
    return answers.reply(_described(session, call.sessions.live(session)))


async def session_branch(call: ToolCall, given: SessionOnly) -> CallToolResult:
    """Copy a live session."""
    return answers.reply(_described(await call.sessions.branch(call.caller, given.session_id)))


async def session_rollback(call: ToolCall, given: SessionRollback) -> CallToolResult:
    """Undo the last Python executions."""
    session = await call.sessions.find(call.caller, given.session_id)
    live = await call.ask(session.id, "rollback", Rollback(execs=given.execs), LiveState)
    return answers.reply(_described(await call.sessions.find(call.caller, session.id), live))


async def session_delete(call: ToolCall, given: SessionOnly) -> CallToolResult:
    """End a session."""
    await call.sessions.delete(call.caller, given.session_id)
    return answers.reply(answers.Done(session_id=given.session_id, done="deleted"))


def _described(session: Session, live: LiveState | None = None) -> answers.SessionAnswer:
    return answers.SessionAnswer(
        session_id=session.id,
        state=live.state if live else session.state,
        name=session.options.name,
        profile=session.options.profile,
        workspace=session.options.workspace,
        created_at=session.created_at,
        used_at=session.used_at,
        sleeps_at=live.sleeps_at if live else session.sleeps_at,
        expires_at=live.expires_at if live else session.expires_at,
        exec_count=live.exec_count if live else session.exec_count,
        branch_of=session.branch_of,
        memory=live.memory if live else 0,
        disk=live.disk if live else 0,
        restored=live.restored if live else (),
        lost=live.lost if live else (),
    )
