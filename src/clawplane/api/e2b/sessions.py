"""What the E2B dialect needs of code sessions; `flows/sessions` answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from clawplane.domain.access import Caller
from clawplane.domain.asks import ReadFile, WriteFile
from clawplane.domain.clock import Clock
from clawplane.domain.sessions import ExecEvent, ExecRequest, ExecResult, FileEntry, Session, SessionOptions
from clawplane.flows.access import Access
from clawplane.flows.sandbox_tokens import SandboxTokens


class Sessions(Protocol):
    """Code sessions for a caller; methods raise NotFound for a session that is unknown, ended or another owner's."""

    async def create(self, caller: Caller, options: SessionOptions, *, ends_at: int | None = None) -> Session:
        """Create a session that ends at a fixed time, in ms, whatever happens in it."""
        ...

    async def find(self, caller: Caller, session_id: str) -> Session:
        """Return a session of the caller's."""
        ...

    async def known(self, session_id: str) -> Session:
        """Return a session, whoever owns it, for somebody who proves to hold its token."""
        ...

    async def all(self, caller: Caller) -> Sequence[Session]:
        """Return the caller's sessions that have not ended, newest first."""
        ...

    async def set_end(self, caller: Caller, session_id: str, ends_at: int | None) -> Session:
        """Move the fixed time at which a session ends."""
        ...

    def execute(
        self, caller: Caller, session_id: str, request: ExecRequest
    ) -> AsyncGenerator[ExecEvent | ExecResult, None]:
        """Yield what an exec says while it runs, and its result last; closing the generator early ends the exec."""
        ...

    async def ask(self, caller: Caller, session_id: str, method: str, question: msgspec.Struct) -> msgspec.Struct:
        """Return the answer to a question of `asks.METHODS` that streams nothing."""
        ...

    def read(self, caller: Caller, session_id: str, question: ReadFile) -> AsyncGenerator[bytes, None]:
        """Yield a workspace file."""
        ...

    async def write(
        self, caller: Caller, session_id: str, question: WriteFile, chunks: AsyncIterator[bytes]
    ) -> FileEntry:
        """Write a workspace file; it changes when the last chunk came, and not at all when `chunks` raises."""
        ...

    async def branch(self, caller: Caller, session_id: str) -> Session:
        """Return a new session, an independent copy of the live one."""
        ...

    async def delete(self, caller: Caller, session_id: str) -> None:
        """End a session and drop its own workspace."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Everything that the E2B dialect calls."""

    sessions: Sessions
    access: Access
    tokens: SandboxTokens
    clock: Clock
