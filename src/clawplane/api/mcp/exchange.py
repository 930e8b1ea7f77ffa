"""One request and its answer, over HTTP, without anything that outlives it.

Both eras of the protocol are served alike: a POST holds one JSON-RPC message, the SDK's kernel runs it (`serve_one`)
on a connection that is made for this request from what the request says of itself, and the answer is a JSON body, or,
from the first notification on, a stream of events. A request of 2026-07-28 says everything in its `_meta`; one of an
earlier version names its version in a header after a handshake of which nothing has to be remembered. So any replica
answers any request, and there is nothing to expire.

What the eras differ in is how a client takes a call back. Since 2026-07-28 it closes the stream; before, a lost
connection means nothing and `notifications/cancelled` arrives in a POST of its own. For that, and for nothing else, the
handshake gives out an `Mcp-Session-Id`: it keeps apart the request ids of clients that share a key. The calls that can
be taken back are those that run in this process (`Running`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import msgspec
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import RequestId

from clawplane.api.mcp.server import Visitor

RunningKey = tuple[str, str, RequestId]
"""Key, `Mcp-Session-Id` and request id of a call that can be taken back."""


class Running:
    """The calls of this process that a client of an earlier protocol version can take back."""

    def __init__(self) -> None:
        self._tasks: dict[RunningKey, asyncio.Task[Any]] = {}

    def add(self, key: RunningKey, task: asyncio.Task[Any]) -> None:
        """Let `cancel` find a task until it is done; of two with one key the later counts."""
        self._tasks[key] = task
        task.add_done_callback(lambda ended: self._forget(key, ended))

    def cancel(self, key: RunningKey) -> None:
        """Cancel a call, if it runs here."""
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()

    def cancel_all(self, caller: str, session: str) -> None:
        """Cancel every call of a client that says good-bye."""
        for key, task in list(self._tasks.items()):
            if key[:2] == (caller, session):
                task.cancel()

    def _forget(self, key: RunningKey, task: asyncio.Task[Any]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]


@dataclass
class Exchange:
    """The SDK's dispatch context for one HTTP request: notifications go into `outgoing`, requests nowhere."""

    request_id: RequestId | None
    message_metadata: ServerMessageMetadata
    progress_token: str | int | None
    can_send_request: bool = False
    transport: TransportContext = field(
        default_factory=lambda: TransportContext(kind="streamable-http", can_send_request=False)
    )
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)
    outgoing: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Refuse: nothing here asks a client anything."""
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Queue a notification; progress comes once a second, so that a client that reads nothing holds little."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = dict(params)
        self.outgoing.put_nowait(event(message))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Queue a progress notification when the client asked for them."""
        if self.progress_token is None:
            return
        params: dict[str, Any] = {"progressToken": self.progress_token, "progress": progress}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        await self.notify("notifications/progress", params)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A JSON-RPC request with the protocol version under which it is answered."""

    request_id: RequestId
    method: str
    params: dict[str, Any] | None
    version: str
    modern: bool
    client_info: Any = None
    client_capabilities: Any = None


async def answer(server: Server[Any], asked: Asked, exchange: Exchange) -> dict[str, Any]:
    """Return the JSON-RPC answer to a request, be it a result or an error."""
    connection = Connection.from_envelope(asked.version, asked.client_info, asked.client_capabilities)
    try:
        result = await serve_one(
            server, exchange, asked.method, asked.params, connection=connection, lifespan_state=None
        )
    except Exception as error:
        data = modern_error_data(error)  # logs what is neither the protocol's nor the client's fault
        return failed(asked.request_id, data.code, data.message, data.data)
    return {"jsonrpc": "2.0", "id": asked.request_id, "result": result}


def new_exchange(asked: Asked, visitor: Visitor) -> Exchange:
    """Return the context of a request; the visitor is what tools find in `context.request`."""
    return Exchange(asked.request_id, ServerMessageMetadata(request_context=visitor), _progress_token(asked.params))


def failed(request_id: RequestId | None, code: int, message: str, data: Any = None) -> dict[str, Any]:
    """Return a JSON-RPC error."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


def event(message: Mapping[str, Any]) -> bytes:
    """Return a message as a server-sent event."""
    return b"event: message\r\ndata: " + encode(message) + b"\r\n\r\n"


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as JSON that UTF-8 can hold."""
    return msgspec.json.encode(message)


def _progress_token(params: Mapping[str, Any] | None) -> str | int | None:
    meta = (params or {}).get("_meta")
    token = meta.get("progressToken") if isinstance(meta, Mapping) else None
    return token if isinstance(token, (str, int)) and not isinstance(token, bool) else None


KEEPALIVE: Final = b": alive\r\n\r\n"
