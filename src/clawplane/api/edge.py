"""The onion around every request, as one visible function: id, limits, preflight, the operation, errors, log.

Bodies are bounded here, whatever announces or does not announce their size, and however slowly they come: the limits
count bytes that arrived and seconds since the first read. A request whose body was not read to its end is answered with
`Connection: close`, so that the rest of it is never mistaken for the next request and never has to be read.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clawplane.api import errors
from clawplane.api.calls import HttpLimits
from clawplane.api.metrics import Metrics
from clawplane.domain.errors import ClawplaneError, InternalError, InvalidArgument, NotFound, TooLarge

_access = logging.getLogger("clawplane.access")
_log = logging.getLogger(__name__)

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TOKEN: Final = re.compile(r"(^|&)((?:token|signature)=)[^&]*")
_LINK: Final = re.compile(r"((?:downloads|approvals)/+).+", re.IGNORECASE | re.DOTALL)
_CORS: Final = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, api-key",
    "Access-Control-Max-Age": "600",
}


_OWN_HEADERS: Final = ((b"access-control-allow-origin", b"*"), (b"x-content-type-options", b"nosniff"))
_CLOSING: Final = ((b"connection", b"close"),)


class BoundedBody:
    """A request's body with a limit in bytes and in seconds; an operation for uploads may widen both."""

    def __init__(self, receive: Receive, headers: Headers, limits: HttpLimits) -> None:
        self._receive = receive
        self._limits = limits
        self._most = limits.body
        self._seconds = limits.body_seconds
        self._announced = headers.get("content-length", "")
        self._until: float | None = None
        self._size = 0
        announces = self._announced not in ("", "0") or "transfer-encoding" in headers
        self.complete = not announces

    def expect_upload(self) -> None:
        """Allow what a package may take."""
        self._most = self._limits.upload
        self._seconds = self._limits.upload_seconds

    async def receive(self) -> Message:
        """Return the next message; raises TooLarge, or InvalidArgument when the body takes too long."""
        if self.complete:
            return await self._receive()
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + self._seconds
            if self._announced.isdecimal() and int(self._announced) > self._most:
                raise self._too_large()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise InvalidArgument(
                f"The request body did not end within {self._seconds:g} s.", hint="Send it faster, or in one piece."
            ) from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self._size > self._most:
                self.complete = False
                raise self._too_large()
        return message

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request body is larger than {self._most} bytes.", hint="Send less.")


class Edge:
    """The middleware. `scope["clawplane.id"]` and `scope["clawplane.body"]` are what it leaves for operations."""

    def __init__(self, app: ASGIApp, *, limits: HttpLimits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        body = BoundedBody(receive, headers, self._limits)
        exchange = _Exchange(send, _request_id(headers), body)
        scope["clawplane.id"], scope["clawplane.body"] = exchange.request_id, body
        try:
            if _is_preflight(scope, headers):
                await Response(status_code=204, headers=_CORS)(scope, receive, exchange.send)
            else:
                _refuse_encoded_slash(scope)
                await self._app(scope, body.receive, exchange.send)
        except ClawplaneError as error:
            await exchange.fail(scope, error)
        except ClientDisconnect:
            exchange.status = 499
        except Exception:
            _log.exception("request %s failed", exchange.request_id)
            await exchange.fail(scope, InternalError(f"Request {exchange.request_id} failed."))
        finally:
            seconds = time.perf_counter() - began
            operation = scope.get("clawplane.operation", "none")
            self._metrics.observe(operation, exchange.status, seconds)
            if _access.isEnabledFor(logging.INFO):
                _access.info(
                    "%s %s %d %.1f ms %s",
                    scope["method"],
                    _shown(scope),
                    exchange.status,
                    seconds * 1000,
                    exchange.request_id,
                )


class _Exchange:
    """The answer's side of one request: adds headers, notes the status."""

    def __init__(self, send: Send, request_id: str, body: BoundedBody) -> None:
        self._send = send
        self._body = body
        self.request_id = request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = ((b"x-request-id", self.request_id.encode()), *_OWN_HEADERS)
            message["headers"] = [*message["headers"], *own, *(() if self._body.complete else _CLOSING)]
        await self._send(message)

    async def fail(self, scope: Scope, error: ClawplaneError) -> None:
        if self.status:  # half an answer is out: breaking the connection is the only honest end
            raise error
        response = errors.to_response(error, path=scope["path"], request_id=self.request_id)
        await response(scope, _nothing, self.send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(8)}"


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def _refuse_encoded_slash(scope: Scope) -> None:
    """Keep `owner%2Fname` from resolving: the decoded path no longer shows it."""
    if b"%2f" in scope.get("raw_path", b"").lower() and not scope["path"].startswith("/v1/runner/blobs/"):
        raise NotFound("A path segment holds an encoded slash.", hint="Write a Worker's path as owner~name.")


def _shown(scope: Scope) -> str:
    """Return path and query for the log, without what gives access."""
    path: str = scope["path"]
    path = _LINK.sub(r"\1(link)", path)
    query = scope.get("query_string", b"").decode("latin-1")
    query = _TOKEN.sub(r"\1\2(hidden)", query)
    return f"{path}?{query}" if query else path
