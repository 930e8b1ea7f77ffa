"""Answer the Task API's paths, in front of everything else; other requests pass by untouched.

Theory of operation. These paths carry the traffic of host tasks, four requests per task, so they do not go through the
router and the edge: one dictionary look-up by method and raw path, one pass over the headers, one write. What the edge
does for other paths is done here in the words of this wire: limits of body and time, the error body, metrics, the
access log; there is no CORS and no request id.

Order of what is looked at: the path (unknown ones below the prefixes of this wire are 404, malformed escapes 400),
OPTIONS, the token, its scope, the rate limit, and only then the body.

An answer with an `undo` changes hands with its delivery: once it is written, the connection is asked whether it has
arrived, and what has not is undone. Where the connection closes behind the answer, the response is ended only after
that, for a closed socket tells nothing. Requests to sandboxes use names of their own hosts and may look the same
(`/health`, `/files`); they are told by their headers and pass by.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from clawplane.api.delivery import Connection
from clawplane.api.metrics import Metrics
from clawplane.api.openclaw.bodies import SWALLOWED, Hung, linger
from clawplane.api.openclaw.errors import refusal, said
from clawplane.api.openclaw.routes import lines
from clawplane.api.openclaw.visits import House, Line, Reply, Visit
from clawplane.domain.access import Caller
from clawplane.domain.errors import AuthenticationRequired, ClawplaneError, Forbidden, InvalidToken, RateLimited

_access = logging.getLogger("clawplane.access")
_log = logging.getLogger(__name__)

_WANTED: Final = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"e2b-sandbox-id",
        b"host",
        b"idempotency-key",
        b"last-event-id",
        b"transfer-encoding",
    }
)
_OWN: Final = frozenset(
    {b"tasks", b"files", b"claude", b"codex", b"gemini", b"worker", b"health", b"events", b"sessions", b"runners",
     b"notify"}
)  # fmt: skip
_BEARER: Final = re.compile(rb"bearer\s+(.+)", re.IGNORECASE | re.DOTALL)
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SANDBOX_HOST: Final = re.compile(rb"\d+-[0-9A-Za-z]{26}\.")
_TYPE: Final = b"content-type"
_LENGTH: Final = b"content-length"
_REFUSED: Final = (AuthenticationRequired, InvalidToken, Forbidden)
_AFTER_FAILURE: Final = 1.0
_CLOSE: Final = (b"connection", b"close")


class TaskApi:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, house: House, metrics: Metrics) -> None:
        self._app = app
        self._house = house
        self._metrics = metrics
        self._fixed: dict[tuple[str, bytes], Line] = {}
        self._open: list[tuple[str, bytes, bytes, Line]] = []
        self._methods: dict[bytes, list[str]] = {}
        for line in lines():
            path = line.path.encode()
            before, hole, behind = path.partition(b"{}")
            if hole:
                self._open.append((line.method, before, behind, line))
            else:
                self._fixed[line.method, path] = line
            self._methods.setdefault(path, []).append(line.method)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope.get("raw_path") or scope["path"].encode()
        method = scope["method"]
        line, part = self._fixed.get((method, path)), b""
        if line is None:
            if path[1:].split(b"/", 1)[0].lower() not in _OWN:
                await self._app(scope, receive, send)
                return
            line, part = self._find("GET" if method == "HEAD" else method, path)
        headers = {name: value for name, value in scope["headers"] if name in _WANTED}
        if b"e2b-sandbox-id" in headers or _SANDBOX_HOST.match(headers.get(b"host", b"")) is not None:
            await self._app(scope, receive, send)
            return
        visit = Visit(self._house, scope, receive, headers)
        exchange = _Exchange(visit, send)
        began = time.perf_counter()
        try:
            await exchange.give(await self._answer(visit, line, path, part))
        except Hung:
            exchange.status = 499
        finally:
            self._note(line, scope, exchange.status, time.perf_counter() - began)

    def _find(self, method: str, path: bytes) -> tuple[Line | None, bytes]:
        lowered = _plain(path)
        line = self._fixed.get((method, lowered))
        if line is not None:
            return line, b""
        trimmed = path[: len(lowered)]
        for known, before, behind, candidate in self._open:
            if known == method and lowered.startswith(before) and lowered.endswith(behind):
                part = trimmed[len(before) : len(trimmed) - len(behind)]
                if part and b"/" not in part:
                    return candidate, part
        return None, b""

    async def _answer(self, visit: Visit, line: Line | None, path: bytes, part: bytes) -> Reply:
        try:
            if _BAD_ESCAPE.search(path) is not None:
                return said("The path holds a malformed escape", 400)
            method = visit.scope["method"]
            if method == "OPTIONS":
                return self._options(path)
            if line is None:
                return said(f"There is no {method} {_shown(path)}", 404)
            await self._let_in(visit, line)
            visit.part = _decoded(part)
            if method == "HEAD" and line.head is not None:
                return await line.head(visit)
            return await line.handler(visit)
        except _REFUSED as error:
            return refusal(error)
        except ClawplaneError as error:
            if line is not None and line.fallback is not None:
                _log.warning("%s is answered with nothing: %s", line.name, error.message)
                return await self._late(visit, line.fallback)
            return refusal(error)
        except (Hung, asyncio.CancelledError):
            raise
        except Exception:
            _log.exception("%s failed", "a request" if line is None else line.name)
            if line is not None and line.fallback is not None:
                return await self._late(visit, line.fallback)
            return said("Internal server error", 500)

    async def _late(self, visit: Visit, reply: Reply) -> Reply:
        """Return an answer a moment later, so that who asks again at once does not spin."""
        gone = asyncio.ensure_future(visit.gone())
        await asyncio.wait([gone], timeout=_AFTER_FAILURE)
        gone.cancel()
        return reply

    def _options(self, path: bytes) -> Reply:
        lowered = _plain(path)
        allowed = list(self._methods.get(lowered, ()))
        if not allowed:
            for method in ("GET", "POST"):
                found, _ = self._find(method, path)
                allowed += [] if found is None else [method]
        if not allowed:
            return said(f"There is no {_shown(path)}", 404)
        if "GET" in allowed:
            allowed.insert(allowed.index("GET") + 1, "HEAD")
        return Reply(b"", headers=((b"allow", ", ".join(allowed).encode()),))

    async def _let_in(self, visit: Visit, line: Line) -> None:
        """Check the token, what it may do, and how often."""
        if line.scope is None:
            visit.known = await self._maybe_known(visit)
            return
        who = _address(visit.scope)
        try:
            caller = visit.known = await self._house.access.authenticate(_token(visit))
        except (AuthenticationRequired, InvalidToken):
            self._check_rate(who)
            raise
        if line.limited:
            self._check_rate(caller.key_id)
        if not caller.may(line.scope):
            raise Forbidden(f"This token lacks the scope `{line.scope}`")

    async def _maybe_known(self, visit: Visit) -> Caller | None:
        try:
            return await self._house.access.authenticate(_token(visit))
        except (AuthenticationRequired, InvalidToken):
            return None

    def _check_rate(self, who: str) -> None:
        seconds = self._house.limit.wait(who)
        if seconds:
            raise RateLimited(f"Too many requests; try again in {seconds:.1f} s")

    def _note(self, line: Line | None, scope: Scope, status: int, seconds: float) -> None:
        name = "none" if line is None else line.name
        self._metrics.observe(name, status, seconds)
        if _access.isEnabledFor(logging.INFO):
            _access.info("%s %s %d %.1f ms", scope["method"], _shown(scope["path"].encode()), status, seconds * 1000)


class _Exchange:
    """The answer's way out."""

    def __init__(self, visit: Visit, send: Send) -> None:
        self._visit = visit
        self._send = send
        self.status = 0

    async def give(self, reply: Reply) -> None:
        """Send an answer; what it carries is undone when it does not arrive."""
        self.status = reply.status
        unread = self._body_is_left()
        if reply.stream is not None:
            await self._start(reply, None, close=unread)
            await self._pour(reply.stream)
            return
        await self._start(reply, len(reply.body), close=unread)
        body = b"" if self._visit.scope["method"] == "HEAD" else reply.body
        if reply.undo is not None:
            await self._hand_over(body, reply)
        elif unread:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await linger(self._visit.receive)
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await self._send({"type": "http.response.body", "body": body})

    async def _start(self, reply: Reply, length: int | None, *, close: bool) -> None:
        headers = [(_TYPE, reply.media)] if reply.body or reply.stream is not None else []
        if length is not None:
            headers.append((_LENGTH, b"%d" % length))
        headers += reply.headers
        if close:
            headers.append(_CLOSE)
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})

    async def _hand_over(self, body: bytes, reply: Reply) -> None:
        connection = self._visit.connection
        last = connection is not None and self._closes(connection)
        arrived = False
        try:
            await self._send({"type": "http.response.body", "body": body, "more_body": last})
            arrived = connection is None or await connection.delivered()
        finally:
            if not arrived and reply.undo is not None:
                _log.info("an answer did not arrive; it is taken back")
                self.status = 499
                await asyncio.shield(asyncio.ensure_future(reply.undo()))
        if last:
            await self._send({"type": "http.response.body", "body": b""})

    def _closes(self, connection: Connection) -> bool:
        """Tell whether the server closes the connection behind this answer."""
        visit = self._visit
        if connection.leaving or visit.scope["http_version"] == "1.0":
            return True
        return b"close" in visit.headers.get(b"connection", b"").lower()

    def _body_is_left(self) -> bool:
        """Tell whether more of the request's body may still come than can be let pass by."""
        headers = self._visit.headers
        if self._visit.read:
            return False
        length = headers.get(b"content-length", b"0")
        return b"transfer-encoding" in headers or not length.isdigit() or int(length) > SWALLOWED

    async def _pour(self, stream: AsyncIterator[bytes]) -> None:
        """Send a stream until it ends, its client goes, or the server stops."""
        gone = asyncio.ensure_future(self._visit.gone())
        try:
            while not gone.done() and self._visit.scope["method"] != "HEAD":
                piece = asyncio.ensure_future(_next(stream))
                await asyncio.wait([piece, gone], return_when=asyncio.FIRST_COMPLETED)
                if not piece.done():
                    piece.cancel()
                    await asyncio.gather(piece, return_exceptions=True)
                    break
                if (chunk := piece.result()) is None:
                    break
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            gone.cancel()
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
        await self._send({"type": "http.response.body", "body": b""})


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)


def _token(visit: Visit) -> str | None:
    """Return the Bearer token; a raw one without the word fails like a missing one."""
    found = _BEARER.fullmatch(visit.headers.get(b"authorization", b"").strip())
    return None if found is None else found[1].strip().decode("latin-1")


def _plain(path: bytes) -> bytes:
    """Return a path in lower case without a slash at its end."""
    lowered = path.lower()
    return lowered[:-1] if lowered.endswith(b"/") and len(lowered) > 1 else lowered


def _decoded(part: bytes) -> str:
    return unquote(part.decode("latin-1"), errors="replace") if b"%" in part else part.decode("latin-1")


def _shown(path: bytes) -> str:
    return path[:200].decode("latin-1").encode("unicode_escape").decode()


def _address(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
