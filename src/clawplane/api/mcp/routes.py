"""Mount MCP into the HTTP edge.

The SDK takes half a second to import. It is imported when the first client comes, in a thread, so that neither the
start of the server nor the requests beside it wait for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from clawplane.api.auth import authenticate
from clawplane.api.calls import Flows
from clawplane.api.own_address import own_address
from clawplane.domain.access import Scope as Right
from clawplane.flows.access import Access, require
from clawplane.flows.host_tasks import HostWork
from clawplane.flows.results import Results

if TYPE_CHECKING:
    from clawplane.api.mcp.sessions import Sessions
    from clawplane.api.mcp.transport import Transport

MCP_PATH: Final = "/mcp"


class McpEndpoint:
    """The MCP endpoint as an ASGI application."""

    def __init__(
        self,
        sessions: Sessions,
        access: Access,
        *,
        version: str,
        public_url: str | None = None,
        host: tuple[HostWork, Results] | None = None,
    ) -> None:
        self._sessions = sessions
        self._access = access
        self._version = version
        self._public_url = public_url
        self._host = host
        self._transport: asyncio.Task[Transport] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors of ours rise to the edge."""
        scope["clawplane.operation"] = "mcp"
        request = Request(scope)
        caller = await authenticate(request, self._access)
        if self._host is None or not caller.may(Right.HOST):
            require(caller, Right.SESSIONS)
        if self._transport is None:
            self._transport = asyncio.create_task(asyncio.to_thread(self._load))
        transport = await asyncio.shield(self._transport)
        from clawplane.api.mcp.server import Visitor  # noqa: PLC0415 - see the head of this file

        await transport.handle(scope, receive, send, Visitor(caller, own_address(request, self._public_url)))

    def _load(self) -> Transport:
        from clawplane.api.mcp.host_tools import HostDesk  # noqa: PLC0415 - see the head of this file
        from clawplane.api.mcp.server import build_server  # noqa: PLC0415
        from clawplane.api.mcp.transport import Transport  # noqa: PLC0415

        desk = None if self._host is None else HostDesk(*self._host)
        return Transport(build_server(self._sessions, self._version, host=desk), origin=_origin_of(self._public_url))


def _origin_of(url: str | None) -> str | None:
    return None if url is None else "{0.scheme}://{0.netloc}".format(urlsplit(url))


def mcp_routes(flows: Flows) -> list[BaseRoute]:
    """Return the routes of the MCP endpoint; nothing has to be started or stopped for them."""
    host = None if flows.host is None else (flows.host, flows.results)
    endpoint = McpEndpoint(flows.sessions, flows.access, version=flows.version, public_url=flows.public_url, host=host)
    return [Route(MCP_PATH, endpoint)]
