"""What the MCP tools need of code sessions; `flows/sessions` answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

import msgspec

from clawplane.domain.access import Caller
from clawplane.domain.asks import ReadFile, WriteFile
from clawplane.domain.sessions import ExecEvent, ExecResult, FileEntry, LiveState, Session, SessionOptions, Tool

OnEvent = Callable[[ExecEvent], None]


class Sessions(Protocol):
    """Code sessions for a caller; every method raises NotFound for a session that is unknown or another owner's."""

    async def create(self, caller: Caller, options: SessionOptions) -> Session:
        """Create a session."""
        ...

    async def find(self, caller: Caller, session_id: str) -> Session:
        """Return a session as it stands."""
        ...

    async def all(self, caller: Caller) -> Sequence[Session]:
        """Return the caller's sessions that have not ended, newest first."""
        ...

    async def execute(
        self, caller: Caller, session_id: str, tool: Tool, code: str, *, timeout: float, on_event: OnEvent
    ) -> ExecResult:
        """Run code to its end; a cancelled call interrupts it. `on_event` hears what it prints while it runs."""
        ...

    def live(self, session: Session) -> LiveState | None:
        """Return what its runner last said of a session that lives; wakes nothing."""
        ...

    async def ask(self, caller: Caller, session_id: str, method: str, question: msgspec.Struct) -> msgspec.Struct:
        """Return the answer to `reset`, `rollback`, `list`, `stat`, `edit` or `delete` of `asks.METHODS`."""
        ...

    def read(self, caller: Caller, session_id: str, question: ReadFile) -> AsyncGenerator[bytes, None]:
        """Yield a piece of a workspace file."""
        ...

    async def write(self, caller: Caller, session_id: str, question: WriteFile, content: bytes) -> FileEntry:
        """Write a workspace file."""
        ...

    async def branch(self, caller: Caller, session_id: str) -> Session:
        """Return a new session, an independent copy of the live one."""
        ...

    async def delete(self, caller: Caller, session_id: str) -> None:
        """End a session and drop its own workspace."""
        ...
