"""Runs as a client sees them: start, watch, read, export."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NotRequired, TypedDict
from urllib.parse import urlsplit

import msgspec

from clawplane.client.following import Following, LogEntry
from clawplane.client.http import Http, segment
from clawplane.domain.errors import Unavailable

ENDED = frozenset({"succeeded", "failed", "aborting"})

_EXPORT_SILENCE = 300.0


class Run(TypedDict):
    """A run; `duration` in seconds. `err_msg` is there for failed runs only."""

    slug: str
    scraper_title: str
    version: str
    status: str
    results: int
    duration: int
    err_msg: NotRequired[str]


class RunPage(TypedDict):
    """One page of runs."""

    count: int
    list: list[Run]


class Outcome(TypedDict):
    """How a subtask ended."""

    message: str


class Subtask(TypedDict):
    """A subtask with its attempts."""

    id: str
    status: str
    outcome: Outcome | None
    attempts: list[dict[str, Any]]


class Subtasks(TypedDict):
    """A run's subtasks in order."""

    list: list[Subtask]


class Column(TypedDict):
    """A column of a run's rows."""

    key: str
    label: str


class RowPage(TypedDict):
    """One page of rows."""

    count: int
    headers: list[Column]
    list: list[Any]


class _Started(TypedDict):
    run_slug: str


class _Link(TypedDict):
    download_url: str


class RunsClient:
    """Runs over HTTP."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def start(
        self, worker: str, *, custom: msgspec.Raw, system: dict[str, Any], version: str | None = None
    ) -> str:
        """Start a run with the JSON object `custom`, every digit as it was written, and return the run's slug."""
        body: dict[str, Any] = {"input": {"parameters": {"system": system, "custom": custom}}, "is_async": True}
        if version:
            body["version"] = version
        return (await self._http.ask("POST", f"/api/v2/workers/{segment(worker)}/runs", _Started, body=body))[
            "run_slug"
        ]

    async def page(
        self, *, offset: int, limit: int, worker: str | None = None, status: str | None = None
    ) -> tuple[int, list[Run]]:
        """Return the count and one page of runs; `offset` is the page number from 1."""
        query = {"offset": offset, "limit": limit, "worker_id": worker, "status": status}
        data = await self._http.ask("GET", "/api/v2/worker-runs", RunPage, query=query)
        return data["count"], data["list"]

    async def show(self, run: str) -> Run:
        """Return a run; `last` names the most recent one."""
        return await self._http.ask("GET", f"/api/v2/worker-runs/{segment(run)}", Run)

    async def subtasks(self, run: str) -> list[Subtask]:
        """Return a run's subtasks with their attempts."""
        return (await self._http.ask("GET", f"/v1/runs/{segment(run)}/subtasks", Subtasks))["list"]

    def log(self, run: str, *, after: int = 0) -> AsyncGenerator[LogEntry, None]:
        """Yield the log entries behind `after` that are there now."""
        return self._http.lines(f"/v1/runs/{segment(run)}/log", LogEntry, query={"after": after})

    def follow(
        self, run: str, *, on_lost: Callable[[Unavailable], None], after: int = 0
    ) -> AsyncGenerator[LogEntry, None]:
        """Yield the log entries behind `after` until the run has ended, over restarts of the server."""

        async def ended() -> bool:
            return (await self.show(run))["status"] in ENDED

        return Following(self._http, f"/v1/runs/{segment(run)}/log", ended, on_lost=on_lost).entries(after)

    async def results(self, run: str, *, offset: int, limit: int) -> RowPage:
        """Return one page of rows with the count and the headers; `offset` is the page number from 1."""
        query = {"offset": offset, "limit": limit}
        return await self._http.ask("GET", f"/api/v2/worker-runs/{segment(run)}/result", RowPage, query=query)

    async def export(self, run: str, *, format_: str, columns: list[str]) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of an export; raises Unavailable when it breaks off before its end."""
        query = {"format": format_, "filter_keys": ",".join(columns) or None}
        path = f"/api/v2/worker-runs/{segment(run)}/result/export"
        link = (await self._http.ask("GET", path, _Link, query=query))["download_url"]
        async with aclosing(self._http.stream(self._own(link), timeout=_EXPORT_SILENCE)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _own(self, link: str) -> str:
        """Return a link as a path at the address we speak to; the server may know itself by another."""
        found = urlsplit(link)
        path = found.path.removeprefix(urlsplit(self._http.url).path.rstrip("/"))
        return path + (f"?{found.query}" if found.query else "")

    async def abort(self, run: str) -> None:
        """Abort a run."""
        await self._http.request("POST", f"/api/v2/worker-runs/{segment(run)}/abort")

    async def rerun(self, run: str) -> str:
        """Start the same again and return the new slug."""
        path = f"/api/v2/worker-runs/{segment(run)}/rerun"
        return (await self._http.ask("POST", path, _Started, body={"is_async": True}))["run_slug"]
