"""The one HTTP client: sends a request, unwraps the envelope, turns refusals into errors of our own tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec

from clawplane.domain import errors
from clawplane.domain.errors import ClawplaneError

_BY_STATUS: dict[int, type[ClawplaneError]] = {
    401: errors.InvalidToken,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.TooLarge,
    429: errors.RateLimited,
    500: errors.InternalError,
    501: errors.NotImplementedHere,
    503: errors.Unavailable,
}
_BY_CODE: dict[int, type[ClawplaneError]] = {
    12001: errors.AuthenticationRequired,
    12002: errors.InvalidToken,
    11004: errors.NotFound,
    30003: errors.ConcurrencyLimited,
    50001: errors.WorkerNotFound,
    50003: errors.VersionUnavailable,
    70001: errors.RunNotFound,
    70002: errors.NotAbortable,
}


class Http:
    """Speak to one control plane with one key."""

    def __init__(self, url: str, key: str | None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        headers = {"Accept": "application/json", "User-Agent": "clawplane"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self.url = url
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(60, connect=5),
            transport=transport,
            trust_env=not url.startswith(("http://127.", "http://localhost", "http://[::1]")),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content: AsyncIterator[bytes] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Return the `data` of the answer; raises the error of our tree that the answer stands for."""
        sent = dict(headers or {})
        if body is not None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        try:
            response = await self._client.request(
                method,
                path,
                params={name: value for name, value in (query or {}).items() if value is not None},
                content=content,
                headers=sent,
                timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        return self._unwrap(response.status_code, response.content)

    async def stream(
        self, path: str, *, query: Mapping[str, Any] | None = None, timeout: float | None = 60
    ) -> AsyncIterator[bytes]:
        """Yield the body of a GET as it comes; `timeout` bounds the silence between two chunks, None waits for ever."""
        try:
            async with self._client.stream(
                "GET",
                path,
                params={name: value for name, value in (query or {}).items() if value is not None},
                timeout=httpx.Timeout(timeout, connect=5),
                headers={"Accept": "*/*"},
            ) as response:
                if response.status_code >= 400:
                    self._unwrap(response.status_code, await response.aread())
                async for chunk in response.aiter_bytes():
                    yield chunk
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    async def lines(self, path: str, *, query: Mapping[str, Any] | None = None) -> AsyncIterator[Any]:
        """Yield the objects of an NDJSON stream for as long as the server sends them."""
        pending = b""
        async for chunk in self.stream(path, query=query, timeout=None):
            pending += chunk
            *complete, pending = pending.split(b"\n")
            for line in complete:
                if line.strip():
                    yield msgspec.json.decode(line)

    def _unreachable(self, error: httpx.TransportError) -> ClawplaneError:
        if isinstance(error, httpx.TimeoutException):
            return errors.Unavailable(f"The control plane at {self.url} did not answer in time.")
        return errors.Unavailable(
            f"The control plane at {self.url} cannot be reached: {error}".rstrip(": "),
            hint="Start it with `clawplane up`, or set CLAWPLANE_URL to where it listens.",
        )

    @staticmethod
    def _unwrap(status: int, content: bytes) -> Any:
        try:
            answer = msgspec.json.decode(content) if content else {}
        except msgspec.DecodeError:
            answer = None
        if not isinstance(answer, dict):
            if status < 400:
                raise errors.InternalError("The control plane's answer is no JSON object.")
            answer = {}
        code = answer.get("code", 0 if status < 400 else status)
        if status < 400 and code == 0:
            return answer.get("data")
        kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or errors.InvalidArgument
        details = [str(detail) for detail in answer.get("details") or []]
        message = str(answer.get("message") or f"The control plane answered HTTP {status}.")
        hint = answer.get("hint")
        raise kind(message, hint=str(hint) if hint else None, details=details)
