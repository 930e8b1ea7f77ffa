"""Speak the Task API's wire as a runner: poll, report, tell events, keep tasks by heartbeats.

Every answer is judged by its status and its shape. What a server says beyond that, such as a page of HTML from a proxy,
is never believed and only its beginning is ever read. The token goes to the address that was set and nowhere else: no
redirect is followed, and the environment's proxies are not used.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx

from clawplane.runner.host.task_frames import NoTask, PolledTask, read_task

POLL_GRACE: Final = 5.0
"""Seconds that an answer to a poll may take beyond the time that was asked for."""
SECONDS: Final = 10.0
HEARTBEAT_SECONDS: Final = 5.0
"""Seconds that an answer to a heartbeat may take; what is sent into a cut network is not waited for longer."""
_MOST_TASK: Final = 16 << 20
_MOST_ANSWER: Final = 1 << 20
_UPLOAD_BYTES_A_SECOND: Final = 256 << 10


class TaskApiFailed(Exception):
    """The server could not be reached, or answered what it should not; the message is for the log."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """What it answered, 0 for nothing."""

    @property
    def final(self) -> bool:
        """Tell whether the request itself was refused, so that sending the same again changes nothing."""
        return 400 <= self.status < 500 and self.status not in (401, 403, 408, 425, 429)


class Unauthorized(TaskApiFailed):
    """The server does not know the token."""


class TaskApi:
    """One server; an async context manager. `url` without a slash at its end."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}", "User-Agent": "clawplane", "Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
            timeout=None,  # noqa: S113 - each request has a limit of its own, for all of it
        )

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def poll(self, asked: Mapping[str, str], *, seconds: float) -> PolledTask | None:
        """Return a task, or None when the server had none within `seconds`; raises TaskApiFailed."""
        status, body = await self._request("GET", "/worker/poll", seconds=seconds + POLL_GRACE, params=asked)
        if status != httpx.codes.OK:
            raise TaskApiFailed(f"the poll was answered with status {status}", status=status)
        try:
            return read_task(body)
        except NoTask as error:
            raise TaskApiFailed(f"the poll was answered with something else: {error}") from None

    async def report(self, body: bytes) -> None:
        """Report the end of a task; returns when the server has acknowledged it, raises TaskApiFailed."""
        await self._post("/worker/result", body)

    async def event(self, body: bytes) -> None:
        """Tell of an event; raises TaskApiFailed."""
        await self._post("/worker/event", body)

    async def heartbeat(self, body: bytes) -> Mapping[str, Any] | None:
        """Say what still runs and return the answer; None when the server has no heartbeats. Raises TaskApiFailed."""
        try:
            answer = await self._post("/worker/heartbeat", body, seconds=HEARTBEAT_SECONDS)
        except TaskApiFailed as error:
            if error.status in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
                return None
            raise
        return _object(answer, "heartbeat")

    async def ask(self, body: bytes, *, seconds: float) -> Mapping[str, Any]:
        """Ask a person something and return what the server knows after `seconds`; raises TaskApiFailed."""
        return _object(await self._post("/worker/ask", body, seconds=SECONDS + seconds), "question")

    async def _post(self, path: str, body: bytes, *, seconds: float = SECONDS) -> bytes:
        seconds += len(body) / _UPLOAD_BYTES_A_SECOND
        status, answer = await self._request("POST", path, seconds=seconds, content=body)
        if not 200 <= status < 300:
            raise TaskApiFailed(f"{path} was answered with status {status}", status=status)
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        *,
        seconds: float,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        most = _MOST_TASK if method == "GET" else _MOST_ANSWER
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(
                    method, f"{self._url}{path}", params=params, content=content, headers=headers
                ) as response,
            ):
                if response.status_code == httpx.codes.UNAUTHORIZED:
                    raise Unauthorized("the server does not know WORKER_TOKEN", status=response.status_code)
                if response.status_code != httpx.codes.OK:
                    return response.status_code, b""
                body = bytearray()
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > most:
                        raise TaskApiFailed("the answer is too large")
                return response.status_code, bytes(body)
        except TimeoutError:
            raise TaskApiFailed(f"no answer within {seconds:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise TaskApiFailed(f"the server cannot be reached: {type(error).__name__}") from None


def _object(answer: bytes, what: str) -> Mapping[str, Any]:
    try:
        told = json.loads(answer)
    except (ValueError, RecursionError):
        raise TaskApiFailed(f"the {what} was answered with no JSON") from None
    if not isinstance(told, dict):
        raise TaskApiFailed(f"the {what} was answered with no object")
    return told
