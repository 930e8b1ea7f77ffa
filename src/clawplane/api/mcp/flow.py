"""The sessions of the flows, in the form in which the tools ask for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

import msgspec

from clawplane.api.mcp.sessions import OnEvent
from clawplane.domain import asks
from clawplane.domain.access import Caller
from clawplane.domain.sessions import (
    ExecResult,
    FileEntry,
    LiveState,
    Session,
    SessionOptions,
    SessionState,
    Tool,
)
from clawplane.flows.sessions import Sessions as Flow

_MOST_LISTED: Final = 100


class FlowSessions:
    """Implements `api.mcp.sessions.Sessions`."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def create(self, caller: Caller, options: SessionOptions) -> Session:
        """Create a session; whoever asks it first waits for its runner."""
        return await self._flow.create(caller, options, placed=False)

    async def find(self, caller: Caller, session_id: str) -> Session:
        """Return a session as it stands."""
        return await self._flow.find(caller, session_id)

    async def all(self, caller: Caller) -> Sequence[Session]:
        """Return the newest sessions that have not ended."""
        _, found = await self._flow.page(caller, state=None, name="", limit=_MOST_LISTED, offset=0)
        return [session for session in found if session.state is not SessionState.ENDED]

    async def execute(
        self, caller: Caller, session_id: str, tool: Tool, code: str, *, timeout: float, on_event: OnEvent
    ) -> ExecResult:
        """Run code to its end."""
        async with await self._flow.execute(caller, session_id, tool, code, timeout=timeout) as execution:
            async for event in execution.events():
                on_event(event)
            return await execution.result()

    def live(self, session: Session) -> LiveState | None:
        """Return what its runner last said."""
        return self._flow.live(session)

    async def ask(self, caller: Caller, session_id: str, method: str, question: msgspec.Struct) -> msgspec.Struct:
        """Return the answer to one question."""
        match question:
            case asks.Reset():
                return await self._flow.reset(caller, session_id, question)
            case asks.Rollback():
                return await self._flow.rollback(caller, session_id, question)
        files = await self._flow.files(caller, session_id)
        match question:
            case asks.ListFiles():
                return await files.list(question)
            case asks.StatFile():
                return await files.stat(question.path)
            case asks.EditFile():
                return await files.edit(question)
            case asks.DeleteFile():
                await files.delete(question.path, recursive=question.recursive)
                return asks.Nothing()
        raise TypeError(f"no tool asks {method}")

    async def read(self, caller: Caller, session_id: str, question: asks.ReadFile) -> AsyncGenerator[bytes, None]:
        """Yield a piece of a workspace file."""
        files = await self._flow.files(caller, session_id)
        stream = await files.read(question.path, offset=question.offset, limit=question.limit)
        async for chunk in stream.chunks():
            yield chunk

    async def write(self, caller: Caller, session_id: str, question: asks.WriteFile, content: bytes) -> FileEntry:
        """Write a workspace file."""
        files = await self._flow.files(caller, session_id)
        return await files.write(question, _pieces(content))

    async def branch(self, caller: Caller, session_id: str) -> Session:
        """Return a copy of a live session."""
        return await self._flow.branch(caller, session_id)

    async def delete(self, caller: Caller, session_id: str) -> None:
        """End a session."""
        await self._flow.delete(caller, session_id)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    size = 64 << 10
    for start in range(0, len(content), size):
        yield content[start : start + size]
