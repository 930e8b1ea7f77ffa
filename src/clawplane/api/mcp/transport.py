"""`/mcp`: streamable HTTP. What arrives is sorted here; `exchange` answers it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from mcp.server.lowlevel import Server
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
)
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    HEADER_MISMATCH,
    INVALID_REQUEST,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    RequestId,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clawplane.api.errors import answer_for
from clawplane.api.mcp.exchange import (
    KEEPALIVE,
    Asked,
    Exchange,
    Running,
    answer,
    encode,
    event,
    failed,
    new_exchange,
)
from clawplane.api.mcp.server import Visitor
from clawplane.domain.errors import ClawplaneError, TooLarge
from clawplane.domain.json_text import JsonError, exceeds_depth, not_finite, patiently

SESSION_HEADER: Final = "mcp-session-id"

_MAX_DEPTH: Final = 110
_LARGER: Final = (
    "Send less at once: workspace_write takes a large file in pieces, with append; "
    "PUT /v1/sessions/{id}/files/content takes it as a stream."
)
_SILENCE: Final = 15.0
"""Seconds without a notification after which an answer becomes a stream, so that no proxy takes it for dead."""

_SESSION: Final = re.compile(r"[!-~]{1,128}")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Rejected(Exception):
    """A request that is not answered by a tool: a status, and a JSON-RPC error where there is one."""

    def __init__(self, status: int, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(status)
        self.response = Response(
            encode(body) if body is not None else b"",
            status_code=status,
            media_type="application/json" if body is not None else None,
            headers=dict(headers or {}),
        )


class Transport:
    """Answer HTTP requests to the MCP endpoint with a server of the SDK."""

    def __init__(self, server: Server[Any], *, origin: str | None = None, silence: float = _SILENCE) -> None:
        """`origin` is the one beside this host whose web pages may come, as scheme://host:port."""
        self._server = server
        self._origin = origin
        self._silence = silence
        self._running = Running()

    async def handle(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> None:
        """Answer one request of a caller that is known."""
        request = Request(scope, receive)
        try:
            await self._handle(request, send, visitor)
        except Rejected as rejected:
            await rejected.response(scope, receive, send)

    async def _handle(self, request: Request, send: Send, visitor: Visitor) -> None:
        self._check_origin(request)
        session = request.headers.get(SESSION_HEADER, "")
        if session and _SESSION.fullmatch(session) is None:
            raise Rejected(400, failed(None, INVALID_REQUEST, "Mcp-Session-Id is not one of ours."))
        if request.method == "DELETE" and session:
            self._running.cancel_all(visitor.caller.key_id, session)
            raise Rejected(204)
        if request.method != "POST":  # nothing is ever sent unasked, so there is no stream to GET
            raise Rejected(405, headers={"Allow": "POST, DELETE"})
        message = await _message(request)
        if "id" not in message:
            self._notified(message, visitor, session)
            raise Rejected(202)
        asked = _asked(message, request)
        await self._answer(asked, request, send, visitor, session)

    def _check_origin(self, request: Request) -> None:
        """Refuse web pages of other origins; Host says nothing, it is what a rebound name makes of it."""
        origin = request.headers.get("origin")
        if origin is not None and origin != self._origin and _host_of(origin) not in _LOOPBACK:
            raise Rejected(403, failed(None, INVALID_REQUEST, "Web pages of this origin may not use the MCP endpoint."))

    def _notified(self, message: Mapping[str, Any], visitor: Visitor, session: str) -> None:
        """Take a notification; the only one that changes anything takes a call back."""
        params = message.get("params")
        if message.get("method") != "notifications/cancelled" or not isinstance(params, Mapping) or not session:
            return
        request_id = params.get("requestId")
        if isinstance(request_id, (str, int)):
            self._running.cancel((visitor.caller.key_id, session, request_id))

    async def _answer(self, asked: Asked, request: Request, send: Send, visitor: Visitor, session: str) -> None:
        exchange = new_exchange(asked, visitor)
        work = asyncio.create_task(answer(self._server, asked, exchange))
        if not asked.modern and session:
            self._running.add((visitor.caller.key_id, session, asked.request_id), work)
        left = asyncio.create_task(_cancel_when_left(request, work)) if asked.modern else None
        try:
            await self._send(asked, exchange, work, request, send)
        finally:
            work.cancel()
            if left is not None:
                left.cancel()
            await asyncio.wait([task for task in (work, left) if task is not None])

    async def _send(
        self,
        asked: Asked,
        exchange: Exchange,
        work: asyncio.Task[dict[str, Any]],
        request: Request,
        send: Send,
    ) -> None:
        """Send the answer as JSON when it is there before anything else, otherwise as the last of a stream."""
        if not _takes(request, "text/event-stream"):
            await asyncio.wait([work])
        piece = None if work.done() else await self._next(exchange, work)
        if piece is None:
            await _response(asked, work)(request.scope, request.receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": list(_STREAM_HEADERS)})
        while piece is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = await self._next(exchange, work)
        last = event(_outcome(asked.request_id, work))
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _next(self, exchange: Exchange, work: asyncio.Task[dict[str, Any]]) -> bytes | None:
        """Return the next piece of a stream, a sign of life after a silence, or None when the work is done."""
        if not exchange.outgoing.empty():
            return exchange.outgoing.get_nowait()
        getting = asyncio.create_task(exchange.outgoing.get())
        try:
            done, _ = await asyncio.wait((getting, work), timeout=self._silence, return_when=asyncio.FIRST_COMPLETED)
        finally:
            getting.cancel()
        if getting in done:
            return getting.result()
        return None if work in done else KEEPALIVE


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


async def _message(request: Request) -> dict[str, Any]:
    """Return the one JSON-RPC message of a body; raises Rejected."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Rejected(415, failed(None, INVALID_REQUEST, "Content-Type must be application/json."))
    if not _takes(request, "application/json"):
        raise Rejected(406, failed(None, INVALID_REQUEST, "Accept must include application/json."))
    try:
        body = await request.body()
    except ClawplaneError as error:  # too large, or too slow: said in the words of the protocol, so that models see it
        status = answer_for(error).native_status
        hint = _LARGER if isinstance(error, TooLarge) else error.hint
        raise Rejected(status, failed(None, INVALID_REQUEST, f"{error.message} {hint}".strip())) from None
    try:
        if exceeds_depth(body, _MAX_DEPTH):
            raise Rejected(400, failed(None, PARSE_ERROR, f"The body nests deeper than {_MAX_DEPTH} levels."))
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = _patiently(body, error)
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        raise Rejected(400, failed(None, INVALID_REQUEST, "The body must be one JSON-RPC request or notification."))
    params, request_id = message.get("params"), message.get("id", 0)
    if not isinstance(params, dict | None) or isinstance(request_id, bool) or not isinstance(request_id, (str, int)):
        raise Rejected(400, failed(None, INVALID_REQUEST, "id must be a string or integer, params an object."))
    return message


def _patiently(body: bytes, error: Exception) -> Any:
    """Return a call whose arguments alone hold what JSON cannot say (NaN, half surrogate pairs): its tool names it."""
    try:
        message: Any = patiently(body)
    except JsonError:
        raise Rejected(400, failed(None, PARSE_ERROR, f"The body is no JSON: {error}")) from None
    params = message.get("params") if isinstance(message, dict) else None
    rest = {**message, "params": {**params, "arguments": {}}} if isinstance(params, dict) else message
    wrong = not_finite(rest)
    try:
        msgspec.json.encode(rest)
    except UnicodeEncodeError:
        wrong = wrong or "it holds half of a surrogate pair."
    if wrong is not None:
        raise Rejected(400, failed(None, PARSE_ERROR, f"The body is no JSON: {wrong}"))
    return message


def _takes(request: Request, media: str) -> bool:
    accept = request.headers.get("accept", "*/*").lower()
    return any(kind in accept for kind in ("*/*", media, f"{media.partition('/')[0]}/*"))


def _asked(message: dict[str, Any], request: Request) -> Asked:
    """Return a request with the version it is answered under; raises Rejected when it contradicts itself."""
    request_id: RequestId = message["id"]
    method, params = message["method"], message.get("params")
    version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER)
    meta = (params or {}).get("_meta")
    enveloped = isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta
    if version in HANDSHAKE_PROTOCOL_VERSIONS or (version is None and not enveloped):
        if method == "initialize":
            offered = (params or {}).get("protocolVersion")
            version = offered if offered in HANDSHAKE_PROTOCOL_VERSIONS else HANDSHAKE_PROTOCOL_VERSIONS[-1]
        return Asked(
            request_id=request_id,
            method=method,
            params=params,
            version=version or DEFAULT_NEGOTIATED_VERSION,
            modern=False,
        )
    duplicated = find_duplicated_routing_header(request.headers.items())
    if duplicated is not None:
        raise Rejected(400, failed(request_id, HEADER_MISMATCH, f"The header {duplicated} is there more than once."))
    route = classify_inbound_request(message, headers=dict(request.headers))
    if isinstance(route, InboundLadderRejection):
        status = ERROR_CODE_HTTP_STATUS.get(route.code, 400)
        raise Rejected(status, failed(request_id, route.code, route.message, route.data))
    return Asked(
        request_id=request_id,
        method=method,
        params=params,
        version=route.protocol_version,
        modern=True,
        client_info=route.client_info,
        client_capabilities=route.client_capabilities,
    )


def _response(asked: Asked, work: asyncio.Task[dict[str, Any]]) -> Response:
    body = _outcome(asked.request_id, work)
    status = ERROR_CODE_HTTP_STATUS.get(body["error"]["code"], 200) if asked.modern and "error" in body else 200
    headers = {}
    if asked.method == "initialize" and "result" in body:
        headers["Mcp-Session-Id"] = secrets.token_hex(16)
    return Response(encode(body), status_code=status, media_type="application/json", headers=headers)


def _outcome(request_id: RequestId, work: asyncio.Task[dict[str, Any]]) -> dict[str, Any]:
    if work.cancelled():
        return failed(request_id, INVALID_REQUEST, "The call was cancelled.")
    return work.result()


async def _cancel_when_left(request: Request, work: asyncio.Task[Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
    work.cancel()
