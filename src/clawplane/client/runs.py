"""Runs as a client sees them: start, watch, read, export."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from clawplane.client.http import Http

ENDED = frozenset({"succeeded", "failed", "aborting"})


class RunsClient:
    """Runs over HTTP."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def start(
        self, worker: str, *, custom: dict[str, Any], system: dict[str, Any], version: str | None = None
    ) -> str:
        """Start a run and return its slug."""
        body: dict[str, Any] = {"input": {"parameters": {"system": system, "custom": custom}}, "is_async": True}
        if version:
            body["version"] = version
        data = await self._http.request("POST", f"/api/v2/workers/{worker}/runs", body=body)
        return str(data["run_slug"])

    async def page(
        self, *, offset: int, limit: int, worker: str | None = None, status: str | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return the count and one page of runs; `offset` is the page number from 1."""
        data = await self._http.request(
            "GET",
            "/api/v2/worker-runs",
            query={"offset": offset, "limit": limit, "worker_id": worker, "status": status},
        )
        return data["count"], data["list"]

    async def show(self, run: str) -> dict[str, Any]:
        """Return a run; `last` names the most recent one."""
        answer: dict[str, Any] = await self._http.request("GET", f"/api/v2/worker-runs/{run}")
        return answer

    async def subtasks(self, run: str) -> list[dict[str, Any]]:
        """Return a run's subtasks with their attempts."""
        answer: list[dict[str, Any]] = (await self._http.request("GET", f"/v1/runs/{run}/subtasks"))["list"]
        return answer

    def log(self, run: str, *, follow: bool, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Yield log entries behind `after`; with `follow` until the run has ended."""
        query = {"after": after, "follow": "true" if follow else "false"}
        return self._http.lines(f"/v1/runs/{run}/log", query=query)

    async def results(self, run: str, *, offset: int, limit: int) -> dict[str, Any]:
        """Return one page of rows with the count and the headers; `offset` is the page number from 1."""
        answer: dict[str, Any] = await self._http.request(
            "GET", f"/api/v2/worker-runs/{run}/result", query={"offset": offset, "limit": limit}
        )
        return answer

    async def export(self, run: str, *, format_: str, columns: list[str]) -> AsyncIterator[bytes]:
        """Yield the bytes of an export."""
        data = await self._http.request(
            "GET",
            f"/api/v2/worker-runs/{run}/result/export",
            query={"format": format_, "filter_keys": ",".join(columns) or None},
        )
        link = urlsplit(str(data["download_url"]))
        path = link.path + (f"?{link.query}" if link.query else "")
        async for chunk in self._http.stream(path, timeout=300):
            yield chunk

    async def abort(self, run: str) -> None:
        """Abort a run."""
        await self._http.request("POST", f"/api/v2/worker-runs/{run}/abort")

    async def rerun(self, run: str) -> str:
        """Start the same again and return the new slug."""
        data = await self._http.request("POST", f"/api/v2/worker-runs/{run}/rerun", body={"is_async": True})
        return str(data["run_slug"])
