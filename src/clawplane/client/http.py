"""The one HTTP client: sends a request, unwraps the envelope, turns refusals into errors of our own tree.

Nothing else comes out of it. Whatever answers at an address, be it a proxy's error page, half a body or JSON of another
shape, ends in a ClawplaneError: what a command or a runner does with an answer relies on the shape it asked for.

Streams are asynchronous generators that hold a connection. Who reads one closes it (`contextlib.aclosing`), at every
level: one that is left to the end of the event loop is torn down out of order, and complains.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from clawplane.domain import errors
from clawplane.domain.errors import ClawplaneError

# httpx would also load its own command line, and with it click and rich: 50 ms of every command
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
import httpx  # noqa: E402 - the line above has to come first

T = TypeVar("T")

SILENCE: Final = 45.0
"""Seconds without a byte after which a stream is taken for dead; a live server sends a sign of life every 15 s."""

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 60.0
_LONGEST_LINE: Final = 64 << 20

_BY_NAME: Final[dict[str, type[ClawplaneError]]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ClawplaneError) and kind is not ClawplaneError
}
_BY_STATUS: Final[dict[int, type[ClawplaneError]]] = {
    401: errors.InvalidToken,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.TooLarge,
    429: errors.RateLimited,
    500: errors.InternalError,
    501: errors.NotImplementedHere,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
    507: errors.StoreFull,
}


def segment(value: str) -> str:
    """Return `value` as one segment of a path; raises InvalidArgument when it can be none."""
    if value in ("", ".", ".."):
        hint = "Use the slug, or owner~name, that the lists show."
        raise errors.InvalidArgument(f"{value!r} names nothing.", hint=hint)
    try:
        return quote(value, safe="~", errors="strict")
    except UnicodeError:
        raise _not_unicode() from None


def _not_unicode() -> ClawplaneError:
    return errors.InvalidArgument(
        "A name or value holds characters that are no valid Unicode.", hint="Write it in UTF-8."
    )


class Http:
    """Speak to one control plane with one key."""

    def __init__(self, url: str, key: str | None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        headers = {"Accept": "application/json", "User-Agent": "clawplane"}
        if key:
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise errors.InvalidToken("The API key holds characters that no key has.")
            headers["Authorization"] = f"Bearer {key}"
        self.url = url
        local = url.startswith(("http://127.", "http://localhost", "http://[::1]"))
        try:
            self._client = httpx.AsyncClient(
                base_url=url,
                headers=headers,
                timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
                transport=transport,
                trust_env=not local,
                verify=not local,  # nothing to verify without TLS, and reading the host's certificates takes 20 ms
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise errors.InvalidArgument(f"{url!r} is no address of a control plane: {error}.") from None

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
        plain: bool = False,
    ) -> Any:
        """Return the `data` of the answer, or all of it where answers are `plain`; raises what a refusal stands for."""
        sent = dict(headers or {})
        try:
            if body is not None:
                content = msgspec.json.encode(body)
                sent["Content-Type"] = "application/json"
            response = await self._client.request(
                method,
                path,
                params=_given(query),
                content=content,
                headers=sent,
                timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
            )
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise self._failed(error) from None
        return self._unwrap(response, plain=plain)

    async def ask(
        self,
        method: str,
        path: str,
        shape: type[T],
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content: AsyncIterator[bytes] | None = None,
        plain: bool = False,
    ) -> T:
        """Return what `request` does, members that `shape` does not know included, once it has that shape."""
        answer = await self.request(method, path, query=query, body=body, content=content, plain=plain)
        return self.shaped(answer, shape)

    def shaped(self, value: Any, shape: type[T]) -> T:
        """Return `value` when it is of `shape`; raises InternalError."""
        try:
            msgspec.convert(value, shape)
        except msgspec.ValidationError as error:
            raise self._foreign(str(error)) from None
        answer: T = value
        return answer

    async def stream(
        self,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: float | None = _ANSWER_SECONDS,
        body: Any = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the body of the answer to a GET, or with a body of our own to a POST, as it comes.

        `timeout` bounds the silence between two chunks, None waits for ever.
        """
        headers = {"Accept": "*/*"} | ({} if body is None else {"Content-Type": "application/json"})
        try:
            async with self._client.stream(
                "GET" if body is None else "POST",
                path,
                params=_given(query),
                timeout=httpx.Timeout(timeout, connect=_CONNECT_SECONDS),
                headers=headers,
                content=None if body is None else msgspec.json.encode(body),
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._unwrap(response)
                    raise self._foreign(f"HTTP {response.status_code} where a stream was expected")
                async for chunk in response.aiter_bytes():
                    yield chunk
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise self._failed(error) from None

    async def lines(
        self,
        path: str,
        shape: type[T],
        *,
        query: Mapping[str, Any] | None = None,
        silence: float | None = SILENCE,
        body: Any = None,
    ) -> AsyncGenerator[T, None]:
        """Yield the objects of an NDJSON stream for as long as the server sends them."""
        parts: list[bytes] = []
        held = 0
        async with aclosing(self.stream(path, query=query, timeout=silence, body=body)) as chunks:
            async for chunk in chunks:
                *complete, rest = chunk.split(b"\n")
                for piece in complete:
                    line = b"".join((*parts, piece))
                    parts.clear()
                    held = 0
                    if line.strip():
                        yield self.shaped(self._decoded(line), shape)
                parts.append(rest)
                held += len(rest)
                if held > _LONGEST_LINE:
                    raise self._foreign(f"a line of more than {_LONGEST_LINE} bytes")

    def _failed(self, error: Exception) -> ClawplaneError:
        if isinstance(error, UnicodeError):
            return _not_unicode()
        if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
            return errors.InvalidArgument(
                f"{self.url!r} is no address of a control plane: {error}",
                hint="Write it as http://HOST:PORT or https://HOST.",
            )
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return errors.Unavailable(f"The control plane at {self.url} did not answer in time.")
        if isinstance(error, (httpx.DecodingError, httpx.TooManyRedirects)):
            return self._foreign(str(error))
        if isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
            return errors.Unavailable(f"The connection to the control plane at {self.url} broke off.")
        return errors.Unavailable(
            f"The control plane at {self.url} cannot be reached: {error or type(error).__name__}.",
            hint="Start it with `clawplane up`, or set CLAWPLANE_URL to where it listens.",
        )

    def _foreign(self, reason: str) -> ClawplaneError:
        return errors.InternalError(
            f"What answers at {self.url} does not speak as this version of clawplane does: {reason}.",
            hint="Check CLAWPLANE_URL, and that client and control plane are of the same version.",
        )

    def _decoded(self, content: bytes) -> Any:
        try:
            return msgspec.json.decode(content)
        except (ValueError, RecursionError):
            raise self._foreign("a line that is no JSON") from None

    def _unwrap(self, response: httpx.Response, *, plain: bool = False) -> Any:
        status = response.status_code
        try:
            answer = msgspec.json.decode(response.content) if response.content else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            if status < 400:
                media = response.headers.get("content-type", "") or "no content"
                raise self._foreign(f"HTTP {status} with {media[:80]}")
            answer = {}
        if status < 300 and plain:
            return answer
        if status < 300 and answer.get("code", 0) == 0:
            return answer.get("data")
        if isinstance(answer.get("code"), str):
            raise plain_refusal(answer, status)
        raise _refusal(answer, status, coreclaw=response.request.url.path.startswith("/api/"))


def _given(query: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the parameters that are set; None, not an empty object, keeps the query that a path brings along."""
    return {name: value for name, value in (query or {}).items() if value is not None} or None


def plain_refusal(answer: Mapping[str, Any], status: int = 200) -> ClawplaneError:
    """Return the error that an answer without an envelope stands for: `error` is its sentence, `code` its kind."""
    kind = _BY_NAME.get(str(answer.get("code"))) or _BY_STATUS.get(status) or errors.InvalidArgument
    sentence = str(answer.get("error") or f"The control plane answered HTTP {status}.")
    return kind(sentence, hint=str(answer["hint"]) if answer.get("hint") else None)


def _refusal(answer: dict[str, Any], status: int, *, coreclaw: bool) -> ClawplaneError:
    """Return the error that an answer stands for.

    On the CoreClaw paths the message may be the fixed one of that wire, in lower case, and our own sentence the first
    of the details: the sentence is what a person needs.
    """
    kind = _BY_NAME.get(str(answer.get("error"))) or _BY_STATUS.get(status) or errors.InvalidArgument
    message = str(answer.get("message") or f"The control plane answered HTTP {status}.")
    hint = str(answer["hint"]) if answer.get("hint") else None
    listed = answer.get("details")
    details = [str(detail) for detail in listed if detail != hint] if isinstance(listed, list) else []
    if coreclaw and details and message[:1].islower():
        message, *details = details
    return kind(message, hint=hint, details=details)
