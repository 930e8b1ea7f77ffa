"""Code sessions as a client sees them: execute, look after, and their files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NotRequired, TypedDict, cast

from clawplane.client.http import Http, plain_refusal, segment
from clawplane.domain.errors import Unavailable


class Answer(TypedDict):
    """How an exec ended; `error` is None on success. More members may be there, see the API's reference."""

    stdout: str
    stderr: str
    error: str | None
    session_id: str
    exec_id: NotRequired[str]
    status: NotRequired[str]
    results: NotRequired[list[dict[str, Any]]]
    error_detail: NotRequired[dict[str, Any] | None]
    truncated: NotRequired[dict[str, dict[str, Any]]]
    notes: NotRequired[list[str]]


class Event(TypedDict):
    """One piece of a stream; `type` names it, text or data hold it."""

    type: str
    text: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    result: NotRequired[Answer]
    session_id: NotRequired[str]
    exec_id: NotRequired[str]


class Session(TypedDict):
    """A session; times in ms since 1970."""

    id: str
    state: str
    name: NotRequired[str]
    profile: NotRequired[str]
    exec_count: NotRequired[int]
    created_at: NotRequired[int]
    used_at: NotRequired[int]
    sleeps_at: NotRequired[int | None]
    expires_at: NotRequired[int | None]
    end_reason: NotRequired[str]


class File(TypedDict):
    """A file, directory or link of a workspace; size in bytes."""

    path: str
    kind: str
    size: int
    modified_at: int


class SessionPage(TypedDict):
    """One page of sessions, newest first."""

    count: int
    sessions: list[Session]


class Files(TypedDict):
    """A listing; `more` when it was cut."""

    files: list[File]
    more: bool


class Written(TypedDict):
    """A file that was written."""

    file: File


class SessionsClient:
    """Sessions over HTTP; needs the scope `sessions`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def execute(
        self, tool: str, code: str, *, session: str | None = None, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield what an exec says while it runs; the last event is of type `end`, with the Answer as `result`.

        A `ping` with a text says what the exec waits for.

        Without a session a new one is made; the first event names it. Closing the generator early ends the exec.
        """
        body: dict[str, Any] = {"command" if tool == "shell" else "code": code, "stream": "ndjson"}
        if session:
            body["session_id"] = session
        if timeout is not None:
            body["timeout"] = timeout
        async with aclosing(self._http.lines(f"/v1/tools/execute_{tool}", Event, body=body)) as events:
            async for event in events:
                if event["type"] == "error":
                    raise plain_refusal(cast("dict[str, Any]", event))
                if event["type"] != "ping" or event.get("text"):
                    yield event
                if event["type"] == "end":
                    return
        raise Unavailable("The stream of the exec broke off; what it did is in the session.")

    async def create(self, **options: Any) -> Session:
        """Create a session; options that are None are left to the server."""
        given = {name: value for name, value in options.items() if value is not None}
        return await self._http.ask("POST", "/v1/sessions", Session, body=given, plain=True)

    async def page(self, *, offset: int, limit: int, state: str | None = None) -> SessionPage:
        """Return one page, newest first; `offset` is the page number from 1."""
        query = {"offset": offset, "limit": limit, "state": state}
        return await self._http.ask("GET", "/v1/sessions", SessionPage, query=query, plain=True)

    async def show(self, session: str) -> Session:
        """Return a session; this does not wake it."""
        return await self._http.ask("GET", _path(session), Session, plain=True)

    async def act(self, session: str, what: str, **body: Any) -> Session:
        """Do something with a session: reset, rollback, branch or sleep."""
        return await self._http.ask("POST", f"{_path(session)}/{what}", Session, body=body, plain=True)

    async def interrupt(self, session: str, exec_id: str = "") -> None:
        """Interrupt an exec, or whatever runs."""
        await self._http.request("POST", f"{_path(session)}/interrupt", body={"exec_id": exec_id}, plain=True)

    async def delete(self, session: str) -> Session:
        """End a session and delete its own workspace."""
        return await self._http.ask("DELETE", _path(session), Session, plain=True)

    async def notebook(self, session: str) -> dict[str, Any]:
        """Return the history as a Jupyter notebook."""
        return await self._http.ask("GET", f"{_path(session)}/notebook", dict[str, Any], plain=True)

    async def files(self, session: str, path: str = "", *, recursive: bool = False) -> Files:
        """List a directory of the workspace."""
        query = {"path": path, "recursive": "true" if recursive else None, "limit": 10_000}
        return await self._http.ask("GET", f"{_path(session)}/files", Files, query=query, plain=True)

    async def upload(self, session: str, path: str, chunks: AsyncIterator[bytes]) -> File:
        """Write a file; it changes when the last byte came."""
        place = f"{_path(session)}/files/content"
        answer = await self._http.ask("PUT", place, Written, query={"path": path}, content=chunks, plain=True)
        return answer["file"]

    def download(self, session: str, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file."""
        return self._http.stream(f"{_path(session)}/files/content", query={"path": path})

    def archive(self, session: str, path: str = "") -> AsyncGenerator[bytes, None]:
        """Yield the workspace, or a directory of it, as a ZIP."""
        return self._http.stream(f"{_path(session)}/archive", query={"path": path or None})


def _path(session: str) -> str:
    return f"/v1/sessions/{segment(session)}"
