"""Sessions that follow a script: what is said for which code is the test's, files are kept in a dictionary."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec

from clawplane.domain.access import Caller
from clawplane.domain.asks import (
    DeleteFile,
    Files,
    Interrupt,
    ListFiles,
    MakeDirectory,
    MoveFile,
    Nothing,
    ReadFile,
    StatFile,
    WriteFile,
)
from clawplane.domain.clock import SystemClock
from clawplane.domain.errors import InvalidArgument, NotFound
from clawplane.domain.ids import JobId
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
        self.script: dict[str, Sequence[ExecEvent | ExecResult]] = {}
        self.requests: list[ExecRequest] = []
        self.asked: list[tuple[str, msgspec.Struct]] = []
        self.left: list[str] = []
        self.files: dict[str, bytes | None] = {}
        self.sessions: dict[str, Session] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self._clock = SystemClock()
        self._numbers = itertools.count(1)

    async def create(self, caller: Caller, options: SessionOptions, *, ends_at: int | None = None) -> Session:
        now = self._clock.now_ms()
        session = Session(
            id=f"01SESSION{next(self._numbers):04}",
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

    async def known(self, session_id: str) -> Session:
        if session_id not in self.sessions:
            raise NotFound(f"There is no session {session_id!r}.")
        return self.sessions[session_id]

    async def find(self, caller: Caller, session_id: str) -> Session:
        session = await self.known(session_id)
        if session.owner != caller.owner:
            raise NotFound(f"There is no session {session_id!r}.")
        return session

    async def all(self, caller: Caller) -> list[Session]:
        return [
            session
            for session in reversed(self.sessions.values())
            if session.owner == caller.owner and session.state is not SessionState.ENDED
        ]

    async def set_end(self, caller: Caller, session_id: str, ends_at: int | None) -> Session:
        return self._change(await self.find(caller, session_id), expires_at=ends_at)

    async def execute(
        self, caller: Caller, session_id: str, request: ExecRequest
    ) -> AsyncGenerator[ExecEvent | ExecResult, None]:
        await self.find(caller, session_id)
        self.requests.append(request)
        self._stops[request.id] = stop = asyncio.Event()
        yield ExecEvent(type="started")
        ended = False
        try:
            for said in self.script.get(request.code, [done()]):
                if said is WAIT:
                    await stop.wait()
                    yield done(status="cancelled", error="The exec was interrupted.")
                    break
                yield said
            ended = True
        finally:
            if not ended:
                self.left.append(request.code)

    async def ask(self, caller: Caller, session_id: str, method: str, question: msgspec.Struct) -> msgspec.Struct:
        session = await self.find(caller, session_id)
        self.asked.append((method, question))
        if method == "sleep":
            self._change(session, state=SessionState.SLEEPING)
        if isinstance(question, Interrupt) and question.exec_id in self._stops:
            self._stops[question.exec_id].set()
        if isinstance(question, StatFile):
            return self._entry(question.path)
        if isinstance(question, MakeDirectory):
            parts = question.path.split("/")
            for length in range(1, len(parts) + 1):
                self.files.setdefault("/".join(parts[:length]))
            return self._entry(question.path)
        if isinstance(question, DeleteFile):
            self._entry(question.path)
            self.files = {path: data for path, data in self.files.items() if not _below(path, question.path)}
            return Nothing()
        if isinstance(question, MoveFile):
            self._entry(question.path)
            self.files[question.to] = self.files.pop(question.path)
            return self._entry(question.to)
        if isinstance(question, ListFiles):
            return self._listing(question)
        return LiveState(state=session.state)

    async def read(self, caller: Caller, session_id: str, question: ReadFile) -> AsyncGenerator[bytes, None]:
        await self.find(caller, session_id)
        self._entry(question.path)
        data = self.files[question.path]
        if data is None:
            raise InvalidArgument(f"{question.path} is a directory.")
        yield data[: question.limit]

    async def write(
        self, caller: Caller, session_id: str, question: WriteFile, chunks: AsyncIterator[bytes]
    ) -> FileEntry:
        await self.find(caller, session_id)
        self.files[question.path] = b"".join([chunk async for chunk in chunks])
        return self._entry(question.path)

    async def branch(self, caller: Caller, session_id: str) -> Session:
        session = await self.find(caller, session_id)
        return await self.create(caller, session.options)

    async def delete(self, caller: Caller, session_id: str) -> None:
        self._change(await self.find(caller, session_id), state=SessionState.ENDED)

    def _change(self, session: Session, **values: object) -> Session:
        self.sessions[session.id] = changed = msgspec.structs.replace(session, **values)
        return changed

    def _entry(self, path: str) -> FileEntry:
        if path and path not in self.files:
            raise NotFound(f"There is no {path!r} in the workspace.")
        data = self.files.get(path)
        kind = "directory" if data is None else "file"
        return FileEntry(path=path, kind=kind, size=len(data or b""), modified_at=1_700_000_000_123)  # type: ignore[arg-type]

    def _listing(self, question: ListFiles) -> Files:
        inside = [path for path in sorted(self.files) if _below(path, question.path) and path != question.path]
        if not question.recursive:
            depth = question.path.count("/") + 1 if question.path else 0
            inside = [path for path in inside if path.count("/") == depth]
        return Files(files=tuple(self._entry(path) for path in inside))


def _below(path: str, top: str) -> bool:
    return not top or path == top or path.startswith(top + "/")
