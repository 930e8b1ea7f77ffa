"""Sessions that follow a script: what is said for which code is the test's, files are kept in a dictionary."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Literal

import msgspec

from clawplane.domain.access import Caller, Scope
from clawplane.domain.asks import Files, ListFiles, Reset, WriteFile
from clawplane.domain.clock import SystemClock
from clawplane.domain.errors import InvalidArgument, NotFound, Unavailable
from clawplane.domain.ids import JobId, new_ulid
from clawplane.domain.sessions import (
    ExecEvent,
    ExecRequest,
    ExecResult,
    FileEntry,
    LiveState,
    Session,
    SessionOptions,
    SessionState,
)

WAIT = ExecEvent(type="ping", text="wait")
"""In a script: say nothing more until the exec is interrupted or its caller leaves."""


def done(**values: object) -> ExecResult:
    """Return the end of an exec."""
    return ExecResult(exec_id="", session_id="", **values)  # type: ignore[arg-type]


class ScriptedSessions:
    """The sessions of everybody; `script` maps code to what it says, `requests` has what was executed."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._numbers = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.full = False
        self.script: dict[str, Sequence[ExecEvent | ExecResult]] = {}
        self.requests: list[ExecRequest] = []
        self.resets: list[Reset] = []
        self.left: list[str] = []
        self.contents: dict[str, bytes | None] = {}
        self.sessions: dict[str, Session] = {}
        self._stops: dict[str, asyncio.Event] = {}

    async def create(
        self, caller: Caller, options: SessionOptions, *, placed: bool = True, ends_at: int | None = None
    ) -> Session:
        for found in await self.all(caller):
            if options.name and found.options.name == options.name:
                return found
        now = self._clock.now_ms()
        session = Session(
            id=new_ulid(now),
            owner=caller.owner,
            state=SessionState.RUNNING,
            options=options,
            job=JobId(1),
            created_at=now + next(self._numbers),
            used_at=now,
            expires_at=ends_at,
        )
        self.sessions[session.id] = session
        return session

    async def find(self, caller: Caller, session_id: str) -> Session:
        session = self.sessions.get(session_id)
        if session is None or not (session.owner == caller.owner or caller.may(Scope.ADMIN)):
            raise NotFound(f"There is no session {session_id!r}.")
        return session

    async def known(self, session_id: str) -> Session:
        if session_id not in self.sessions:
            raise NotFound(f"There is no session {session_id!r}.")
        return self.sessions[session_id]

    async def all(self, caller: Caller) -> list[Session]:
        return [
            session
            for session in reversed(self.sessions.values())
            if session.owner == caller.owner and session.state is not SessionState.ENDED
        ]

    async def state(self, caller: Caller, session_id: str) -> LiveState:
        session = await self.find(caller, session_id)
        if self.full:
            raise Unavailable("No runner took the session in time.")
        return LiveState(state=session.state)

    async def set_end(self, caller: Caller, session_id: str, ends_at: int | None) -> Session:
        return self._change(await self.find(caller, session_id), expires_at=ends_at)

    async def execute(
        self, caller: Caller, session_id: str | None, request: ExecRequest
    ) -> AsyncGenerator[ExecEvent | ExecResult, None]:
        await self.find(caller, session_id or "")
        self.requests.append(request)
        self._stops[request.id] = stop = asyncio.Event()
        yield ExecEvent(type="started")
        ended = False
        try:
            for said in self.script.get(request.code, [done()]):
                if said is WAIT:
                    await stop.wait()
                yield done(status="cancelled", error="The exec was interrupted.") if said is WAIT else said
            ended = True
        finally:
            if not ended:
                self.left.append(request.code)

    async def interrupt(self, caller: Caller, session_id: str, exec_id: str = "") -> None:
        await self.find(caller, session_id)
        self._stops[exec_id].set()

    async def reset(self, caller: Caller, session_id: str, question: Reset) -> LiveState:
        session = await self.find(caller, session_id)
        self.resets.append(question)
        return LiveState(state=session.state)

    async def sleep(self, caller: Caller, session_id: str, *, save: bool) -> LiveState:
        session = self._change(await self.find(caller, session_id), state=SessionState.SLEEPING)
        return LiveState(state=session.state)

    async def branch(self, caller: Caller, session_id: str, *, name: str = "") -> Session:
        session = await self.find(caller, session_id)
        return await self.create(caller, session.options)

    async def delete(self, caller: Caller, session_id: str) -> Session:
        return self._change(await self.find(caller, session_id), state=SessionState.ENDED)

    async def files(self, caller: Caller, session_id: str | None) -> ScriptedFiles:
        await self.find(caller, session_id or "")
        return ScriptedFiles(self.contents)

    def _change(self, session: Session, **values: object) -> Session:
        self.sessions[session.id] = changed = msgspec.structs.replace(session, **values)
        return changed


class ScriptedFiles:
    """Files in a dictionary; a directory is None."""

    def __init__(self, contents: dict[str, bytes | None]) -> None:
        self._contents = contents

    async def stat(self, path: str) -> FileEntry:
        return self._entry(path)

    async def list(self, question: ListFiles) -> Files:
        inside = [path for path in sorted(self._contents) if _below(path, question.path) and path != question.path]
        if not question.recursive:
            depth = question.path.count("/") + 1 if question.path else 0
            inside = [path for path in inside if path.count("/") == depth]
        return Files(files=tuple(self._entry(path) for path in inside))

    async def make_directory(self, path: str) -> FileEntry:
        parts = path.split("/")
        for length in range(1, len(parts) + 1):
            self._contents.setdefault("/".join(parts[:length]))
        return self._entry(path)

    async def delete(self, path: str, *, recursive: bool) -> None:
        self._entry(path)
        for name in [name for name in self._contents if _below(name, path)]:
            del self._contents[name]

    async def move(self, path: str, to: str) -> FileEntry:
        self._entry(path)
        self._contents[to] = self._contents.pop(path)
        return self._entry(to)

    async def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> ScriptedStream:
        self._entry(path)
        data = self._contents[path]
        if data is None:
            raise InvalidArgument(f"{path} is a directory.")
        return ScriptedStream(data[offset:][:limit])

    async def write(self, question: WriteFile, chunks: AsyncIterator[bytes]) -> FileEntry:
        self._contents[question.path] = b"".join([chunk async for chunk in chunks])
        return self._entry(question.path)

    def _entry(self, path: str) -> FileEntry:
        if path and path not in self._contents:
            raise NotFound(f"There is no {path!r} in the workspace.")
        data = self._contents.get(path)
        kind: Literal["directory", "file"] = "directory" if data is None else "file"
        return FileEntry(path=path, kind=kind, size=len(data or b""), modified_at=1_700_000_000_123)


class ScriptedStream:
    """A file on its way."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._data


def _below(path: str, top: str) -> bool:
    return not top or path == top or path.startswith(top + "/")
