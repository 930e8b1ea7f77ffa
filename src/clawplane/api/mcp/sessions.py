"""What the MCP tools need of code sessions; `flows/sessions` is it, and tests play it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Protocol

import msgspec

from clawplane.domain.access import Caller
from clawplane.domain.asks import ReadFile, WriteFile
from clawplane.domain.sessions import (
    ExecEvent,
    ExecRequest,
    ExecResult,
    FileEntry,
    LiveState,
    Session,
    SessionOptions,
    Tool,
)


class Sessions(Protocol):
    """Code sessions for a caller; methods raise NotFound for a session that is unknown or another owner's."""

    async def create(self, caller: Caller, options: SessionOptions, *, placed: bool = True) -> Session:
        """Create a session; `placed` waits until a runner has it."""
        ...

    async def find(self, caller: Caller, session_id: str) -> Session:
        """Return a session as it stands."""
        ...

    def live(self, session: Session) -> LiveState | None:
        """Return what its runner last said of a session that lives; wakes nothing."""
        ...

    async def all(self, caller: Caller) -> Sequence[Session]:
        """Return the caller's sessions that have not ended, newest first."""
        ...

    def request(self, tool: Tool, code: str, **more: Any) -> ExecRequest:
        """Return what is to be executed, with an id of its own."""
        ...

    def execute(
        self, caller: Caller, session_id: str | None, request: ExecRequest
    ) -> AsyncGenerator[ExecEvent | ExecResult, None]:
        """Yield what an exec says while it runs, and its result last; closing the generator early ends the exec."""
        ...

    async def ask(self, caller: Caller, session_id: str, method: str, question: msgspec.Struct) -> msgspec.Struct:
        """Return the answer to a question of `asks.METHODS` that streams nothing."""
        ...

    def read(self, caller: Caller, session_id: str, question: ReadFile) -> AsyncGenerator[bytes, None]:
        """Yield a piece of a workspace file."""
        ...

    async def write(
        self, caller: Caller, session_id: str, question: WriteFile, chunks: AsyncIterator[bytes]
    ) -> FileEntry:
        """Write a workspace file."""
        ...

    async def branch(self, caller: Caller, session_id: str) -> Session:
        """Return a new session, an independent copy of the live one."""
        ...

    async def delete(self, caller: Caller, session_id: str) -> Session:
        """End a session and drop its own workspace."""
        ...
