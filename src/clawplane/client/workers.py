"""Workers as a client sees them: push, build, list, show, remove."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, BinaryIO

from clawplane.client.http import Http
from clawplane.domain.errors import InvalidArgument

_CHUNK = 1 << 16


class WorkersClient:
    """Workers and versions over HTTP."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def push(
        self,
        package: BinaryIO,
        size: int,
        *,
        name: str,
        title: str,
        version: str | None = None,
        on_sent: Callable[[int], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Upload a package as a version of the Worker `name`, which is created when absent.

        `on_sent` hears the number of bytes sent so far. Returns the version as the server knows it, with diagnostics.
        """
        boundary = f"clawplane-{secrets.token_hex(16)}"
        fields = {"name": name, "title": title} | ({"version": version} if version else {})
        head = b"".join(
            (
                f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{_one_line(field, value)}\r\n'
            ).encode()
            for field, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="scraper_file"; filename="worker.zip"\r\n'
            "Content-Type: application/zip\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        async def body() -> AsyncIterator[bytes]:
            yield head
            sent = 0
            while chunk := package.read(_CHUNK):
                yield chunk
                sent += len(chunk)
                on_sent(sent)
            yield tail

        answer: dict[str, Any] = await self._http.request(
            "POST",
            "/v1/workers",
            content=body(),
            headers={
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(head) + size + len(tail)),
            },
            timeout=300,
        )
        return answer

    async def page(self, *, offset: int, limit: int, keyword: str) -> list[dict[str, Any]]:
        """Return one page of Workers; `offset` is the page number from 1."""
        data = await self._http.request(
            "GET", "/api/v2/workers", query={"offset": offset, "limit": limit, "keyword": keyword or None}
        )
        workers: list[dict[str, Any]] = data["scraper"]
        return workers

    async def show(self, worker: str) -> dict[str, Any]:
        """Return a Worker with its versions and their diagnostics."""
        answer: dict[str, Any] = await self._http.request("GET", f"/v1/workers/{worker}")
        return answer

    async def version(self, worker: str, version: str) -> dict[str, Any]:
        """Return one version."""
        answer: dict[str, Any] = await self._http.request("GET", f"/v1/workers/{worker}/versions/{version}")
        return answer

    def build_log(self, worker: str, version: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the build's log lines, following it to its end."""
        return self._http.lines(f"/v1/workers/{worker}/versions/{version}/log", query={"follow": "true"})

    async def remove(self, worker: str) -> None:
        """Remove a Worker; its runs stay readable."""
        await self._http.request("DELETE", f"/v1/workers/{worker}")


def _one_line(field: str, value: str) -> str:
    if "\r" in value or "\n" in value:
        raise InvalidArgument(f"{field} has a line break.", hint=f"Give {field} on one line.")
    return value
