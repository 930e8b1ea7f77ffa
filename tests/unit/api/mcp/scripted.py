"""Sessions whose execs follow a script, behind the real edge on a real socket, and clients for them."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import uvicorn
from listening import Server
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from clawplane.api.calls import HttpLimits
from clawplane.api.edge import Edge
from clawplane.api.heads import BoundedHead
from clawplane.api.mcp.routes import MCP_PATH, McpEndpoint
from clawplane.api.metrics import Metrics
from clawplane.domain import asks
from clawplane.domain.access import Caller, Scope
from clawplane.domain.clock import SystemClock
from clawplane.domain.errors import InvalidArgument, NotFound
from clawplane.domain.ids import JobId
from clawplane.domain.sessions import (
    ExecError,
    ExecEvent,
    ExecRequest,
    ExecResult,
    FileChange,
    FileEntry,
    LiveState,
    Session,
    SessionOptions,
    SessionState,
    Tool,
    Truncated,
    Usage,
)
from clawplane.flows.access import Access
from clawplane.store import open_store

KEY = "scraper_api_" + "s" * 40
PUBLIC = "https://plane.example"
READER = "scraper_api_" + "r" * 40
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass
class ScriptedSessions:
    """What `flows/sessions` offers, without a runner: code is looked up in a script."""

    sessions: dict[str, Session] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[ExecRequest] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, caller: Caller, options: SessionOptions, *, placed: bool = True) -> Session:
        session = Session(
            id=f"s{len(self.sessions) + 1}",
            owner=caller.owner,
            state=SessionState.RUNNING,
            options=options,
            job=JobId(1),
            created_at=1,
            used_at=1,
            sleeps_at=300_001,
            expires_at=86_400_001,
        )
        self.sessions[session.id] = session
        return session

    async def find(self, caller: Caller, session_id: str) -> Session:
        if session_id not in self.sessions:
            raise NotFound(f"session_id: there is no session {session_id!r}.", hint="Leave it out to start one.")
        return self.sessions[session_id]

    async def all(self, caller: Caller) -> Sequence[Session]:
        return list(self.sessions.values())

    async def branch(self, caller: Caller, session_id: str) -> Session:
        found = await self.find(caller, session_id)
        made = msgspec.structs.replace(await self.create(caller, found.options), branch_of=session_id)
        self.sessions[made.id] = made
        return made

    async def delete(self, caller: Caller, session_id: str) -> Session:
        await self.find(caller, session_id)
        return self.sessions.pop(session_id)

    def live(self, session: Session) -> LiveState | None:
        return LiveState(state=session.state, sleeps_at=300_001, memory=4096)

    def request(self, tool: Tool, code: str, **more: Any) -> ExecRequest:
        return ExecRequest(id=f"e{len(self.requests) + 1}", tool=tool, code=code, **more)

    async def execute(
        self, caller: Caller, session_id: str | None, request: ExecRequest
    ) -> AsyncGenerator[ExecEvent | ExecResult, None]:
        assert session_id is not None
        self.requests.append(request)
        if request.code == "wait":
            yield ExecEvent(type="stdout", text="one\n")
            yield ExecEvent(type="stdout", text="two\n")
            self.waiting.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.interrupted.set()
                raise
        yield self._result(session_id, request)

    def _result(self, session_id: str, request: ExecRequest) -> ExecResult:
        done: dict[str, Any] = {"exec_id": request.id, "session_id": session_id, "usage": Usage(wall_ms=1.5)}
        match request.code:
            case "1+1":
                return ExecResult(**done, results=({"text/plain": "2", "_main": True},), execution_count=1)
            case "plot":
                figure = {"text/plain": "<Figure>", "image/png": base64.b64encode(PNG).decode(), "text/x-own": "a"}
                return ExecResult(**done, results=(figure,), files=(FileChange(path="a b.png", op="created", size=9),))
            case "liar":
                return ExecResult(**done, results=({"text/plain": "x", "image/png": "PHN2Zz4="},))
            case "boom":
                detail = ExecError(name="ZeroDivisionError", value="division by zero", traceback=("Traceback",))
                error = "ZeroDivisionError: division by zero"
                return ExecResult(**done, stderr="Traceback", error=error, status="error", error_detail=detail)
            case "slow":
                return ExecResult(**done, stdout="so far", error="Error: timeout exceeded", status="timeout")
            case "greedy":
                notes = ("The session used more than 1024 MB.",)
                return ExecResult(**done, error="Error: out of memory", status="memory", notes=notes)
            case "much":
                return ExecResult(**done, stdout="head", truncated={"stdout": Truncated(omitted_bytes=9, spill=".o/1")})
            case "wait":
                return ExecResult(**done, stdout="one\ntwo\n")
        return ExecResult(**done, stdout=request.code)

    async def ask(self, caller: Caller, session_id: str, method: str, question: msgspec.Struct) -> msgspec.Struct:
        match question:
            case asks.Reset() | asks.Rollback():
                return LiveState(state=SessionState.RUNNING, sleeps_at=300_001, memory=4096, exec_count=3)
            case asks.ListFiles():
                return asks.Files(files=tuple(self._entry(path) for path in self.files))
            case asks.StatFile():
                return self._entry(question.path)
            case asks.EditFile():
                count = self.files[question.path].count(question.old.encode())
                if count != 1 and not question.everywhere:
                    raise InvalidArgument(f"old: it occurs {count} times.")
                edited = self.files[question.path].replace(question.old.encode(), question.new.encode())
                self.files[question.path] = edited
                return asks.Edited(replaced=count)
            case asks.DeleteFile():
                del self.files[question.path]
                return asks.Nothing()
        raise AssertionError(method)

    async def read(self, caller: Caller, session_id: str, question: asks.ReadFile) -> AsyncGenerator[bytes, None]:
        end = None if question.limit is None else question.offset + question.limit
        yield self.files[question.path][question.offset : end]

    async def write(
        self, caller: Caller, session_id: str, question: asks.WriteFile, chunks: AsyncIterator[bytes]
    ) -> FileEntry:
        content = b"".join([chunk async for chunk in chunks])
        self.files[question.path] = (self.files.get(question.path, b"") if question.append else b"") + content
        return self._entry(question.path)

    def _entry(self, path: str) -> FileEntry:
        if path not in self.files:
            raise NotFound(f"path: there is no file {path!r}.")
        return FileEntry(path=path, kind="file", size=len(self.files[path]))


@dataclass
class Endpoint:
    """The endpoint on its socket."""

    url: str
    sessions: ScriptedSessions

    @asynccontextmanager
    async def client(self, mode: str, *, key: str = KEY, header: str = "bearer") -> AsyncIterator[Client]:
        """Connect the official client: `legacy` shakes hands, a version is adopted, `auto` discovers."""
        headers = {"Authorization": f"Bearer {key}"} if header == "bearer" else {header: key}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(streamable_http_client(f"{self.url}/mcp", http_client=http), mode=mode) as client,
        ):
            yield client


@asynccontextmanager
async def endpoint(data: Path) -> AsyncIterator[Endpoint]:
    """Serve the MCP endpoint on a socket of this host until the block ends."""
    clock = SystemClock()
    store = await open_store(data, clock=clock)
    access = Access(store.keys, clock)
    await access.admit(KEY, name="agent", scopes={Scope.SESSIONS})
    await access.admit(READER, name="reader", scopes={Scope.READ})
    sessions = ScriptedSessions()
    app = Starlette(
        routes=[Route(MCP_PATH, McpEndpoint(sessions, access, version="1.2.3", public_url=PUBLIC))],
        middleware=[Middleware(Edge, limits=HttpLimits(), metrics=Metrics())],
    )
    server = Server(uvicorn.Config(app, http=BoundedHead, lifespan="off", log_config=None, access_log=False))
    # asyncio turns Nagle's delay off only on sockets that say that they are TCP
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", sessions)
        finally:
            server.should_exit = True
            await serving
            await store.close()
