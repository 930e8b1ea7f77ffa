"""What the E2B dialect needs of code sessions, as protocols that `flows/sessions` fulfils."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from clawplane.domain.access import Caller
from clawplane.domain.asks import Files, ListFiles, Reset, WriteFile
from clawplane.domain.clock import Clock
from clawplane.domain.sessions import (
    ExecEvent,
    ExecRequest,
    ExecResult,
    FileEntry,
    LiveState,
    Session,
    SessionOptions,
)
from clawplane.flows.access import Access
from clawplane.flows.sandbox_tokens import SandboxTokens


class Stream(Protocol):
    """A file on its way."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield its bytes."""
        ...


class Workspace(Protocol):
    """The files of one session."""

    async def list(self, question: ListFiles) -> Files:
        """List a directory."""
        ...

    async def stat(self, path: str) -> FileEntry:
        """Describe one entry."""
        ...

    async def delete(self, path: str, *, recursive: bool) -> None:
        """Delete a file or a directory."""
        ...

    async def make_directory(self, path: str) -> FileEntry:
        """Make a directory and its parents."""
        ...

    async def move(self, path: str, to: str) -> FileEntry:
        """Rename within the workspace."""
        ...

    async def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> Stream:
        """Open a part of a file."""
        ...

    async def write(self, question: WriteFile, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write a file; nothing changes when `chunks` fail."""
        ...


class Sessions(Protocol):
    """Code sessions for a caller; methods raise NotFound for a session that is unknown or another owner's."""

    async def create(
        self, caller: Caller, options: SessionOptions, *, placed: bool = True, ends_at: int | None = None
    ) -> Session:
        """Create a session, or return the caller's live one of that name; `ends_at` (ms) ends it whatever happens."""
        ...

    async def find(self, caller: Caller, session_id: str) -> Session:
        """Return a session that the caller may see."""
        ...

    async def known(self, session_id: str) -> Session:
        """Return a session, whoever owns it, for somebody who has proved to hold its token."""
        ...

    async def all(self, caller: Caller) -> list[Session]:
        """Return the caller's sessions that have not ended, newest first."""
        ...

    async def state(self, caller: Caller, session_id: str) -> LiveState:
        """Ask the runner how a session stands; raises Unavailable when none takes it in time."""
        ...

    async def set_end(self, caller: Caller, session_id: str, ends_at: int | None) -> Session:
        """Move the time at which a session ends whatever happens in it."""
        ...

    def execute(
        self, caller: Caller, session_id: str | None, request: ExecRequest
    ) -> AsyncGenerator[ExecEvent | ExecResult, None]:
        """Yield what an exec says while it runs, and its result last; closing the generator early ends the exec."""
        ...

    async def reset(self, caller: Caller, session_id: str, question: Reset) -> LiveState:
        """Replace a session's interpreter, or empty one of its contexts."""
        ...

    async def interrupt(self, caller: Caller, session_id: str, exec_id: str = "") -> None:
        """Interrupt an exec."""
        ...

    async def sleep(self, caller: Caller, session_id: str, *, save: bool) -> LiveState:
        """Let a session sleep now."""
        ...

    async def branch(self, caller: Caller, session_id: str, *, name: str = "") -> Session:
        """Return a new session, an independent copy of the live one."""
        ...

    async def delete(self, caller: Caller, session_id: str) -> Session:
        """End a session and drop its own workspace."""
        ...

    async def files(self, caller: Caller, session_id: str | None) -> Workspace:
        """Return the way to a session's workspace."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Everything that the E2B dialect calls."""

    sessions: Sessions
    access: Access
    tokens: SandboxTokens
    clock: Clock
