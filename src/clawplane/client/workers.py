"""Workers as a client sees them: push, build, list, show, remove."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import BinaryIO, TypedDict

from clawplane.client.following import Following, LogEntry
from clawplane.client.http import Http, segment
from clawplane.domain.errors import InvalidArgument, Unavailable

_CHUNK = 1 << 16
_UPLOAD_SECONDS = 300.0


class WorkerLine(TypedDict):
    """A Worker in a list."""

    path: str
    title: str
    slug: str


class WorkerPage(TypedDict):
    """One page of Workers."""

    scraper: list[WorkerLine]


class Finding(TypedDict):
    """What the checks of a package found; `line` counts from 1."""

    code: str
    severity: str
    message: str
    file: str | None
    line: int | None
    hint: str


class Version(TypedDict):
    """A version; `worker` is the slug, `unchanged` says that an upload stored nothing."""

    worker: str
    path: str
    version: str
    language: str
    status: str
    package_size: int
    diagnostics: list[Finding]
    build_error: str
    unchanged: bool


class WorkerWithVersions(TypedDict):
    """A Worker with its versions, newest first."""

    slug: str
    path: str
    title: str
    description: str
    versions: list[Version]


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
    ) -> Version:
        """Upload a package as a version of the Worker `name`, which is created when absent.

        `on_sent` hears the number of bytes sent so far. Returns the version as the server knows it, with diagnostics.
        """
        boundary = f"clawplane-{secrets.token_hex(16)}"
        fields = {"name": name, "title": title} | ({"version": version} if version else {})
        head = b"".join(_field(boundary, field, value) for field, value in fields.items())
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="scraper_file"; filename="worker.zip"\r\n'
            "Content-Type: application/zip\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        async def body() -> AsyncIterator[bytes]:
            yield head
            sent = 0
            while chunk := package.read(min(_CHUNK, size - sent)):
                yield chunk
                sent += len(chunk)
                on_sent(sent)
            if sent != size:
                raise InvalidArgument("The package became shorter while it was sent.", hint="Push it again.")
            yield tail

        answer = await self._http.request(
            "POST",
            "/v1/workers",
            content=body(),
            headers={
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(head) + size + len(tail)),
            },
            timeout=_UPLOAD_SECONDS,
        )
        return self._http.shaped(answer, Version)

    async def page(self, *, offset: int, limit: int, keyword: str) -> list[WorkerLine]:
        """Return one page of Workers; `offset` is the page number from 1."""
        query = {"offset": offset, "limit": limit, "keyword": keyword or None}
        return (await self._http.ask("GET", "/api/v2/workers", WorkerPage, query=query))["scraper"]

    async def show(self, worker: str) -> WorkerWithVersions:
        """Return a Worker with its versions and their diagnostics."""
        return await self._http.ask("GET", _path(worker), WorkerWithVersions)

    async def version(self, worker: str, version: str) -> Version:
        """Return one version."""
        return await self._http.ask("GET", f"{_path(worker)}/versions/{segment(version)}", Version)

    def build_log(
        self, worker: str, version: str, *, on_lost: Callable[[Unavailable], None]
    ) -> AsyncGenerator[LogEntry, None]:
        """Yield the build's log lines, following it to its end."""

        async def ended() -> bool:
            return (await self.version(worker, version))["status"] != "building"

        path = f"{_path(worker)}/versions/{segment(version)}/log"
        return Following(self._http, path, ended, on_lost=on_lost).entries()

    async def remove(self, worker: str) -> None:
        """Remove a Worker; its runs stay readable."""
        await self._http.request("DELETE", _path(worker))


def _path(worker: str) -> str:
    return f"/v1/workers/{segment(worker)}"


def _field(boundary: str, name: str, value: str) -> bytes:
    if "\r" in value or "\n" in value:
        raise InvalidArgument(f"{name} has a line break.", hint=f"Give {name} on one line.")
    try:
        return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    except UnicodeError:
        raise InvalidArgument(f"{name} is no valid Unicode.", hint=f"Give --{name} in UTF-8.") from None
