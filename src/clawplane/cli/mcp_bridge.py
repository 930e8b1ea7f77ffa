"""Hand what a local agent asks over standard input to the MCP endpoint of a control plane, and the answers back.

Both sides speak the SDK's protocol; the tools, their schemas and their results are the control plane's own and pass
through unchanged. Towards the control plane every call is a request of its own, so that neither its restart nor a start
before it is noticed by the agent for longer than a call. A call that the agent takes back ends its request, which is
how the control plane hears of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    DiscoverResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    TextContent,
)
from mcp_types.version import LATEST_MODERN_VERSION

import clawplane

T = TypeVar("T")
Context = ServerRequestContext[Any, Any]

_CONNECT_SECONDS: Final = 5.0
_SILENCE: Final = 60.0
"""Seconds without a byte after which an answer is given up; a live control plane sends a sign of life every 15 s."""
_LARGEST: Final = 128 << 20


async def bridge(url: str, key: str | None, tell: Callable[[str], None]) -> None:
    """Serve the agent on standard input and output until it leaves; `tell` hears what a person should know."""
    async with httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx2.Timeout(_SILENCE, connect=_CONNECT_SECONDS),
        trust_env=not url.startswith(("http://127.", "http://localhost", "http://[::1]")),
    ) as http:
        far = Far(http, url)
        server = far.server(await far.instructions(tell))
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())


class Far:
    """The control plane's tools, as handlers of a server on this side."""

    def __init__(self, http: httpx2.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def instructions(self, tell: Callable[[str], None]) -> str | None:
        """Return what the control plane tells agents, or nothing when it is not there yet."""
        try:
            told = await self._ask(lambda remote: remote.session.send_discover(LATEST_MODERN_VERSION))
            return DiscoverResult.model_validate(told).instructions
        except MCPError as error:
            tell(f"{error.error.message} Serving nonetheless: calls will try again.")
            return None

    def server(self, instructions: str | None) -> Server[Any]:
        """Return the server that the agent speaks to."""
        return Server(
            "clawplane",
            version=clawplane.__version__,
            title="clawplane",
            instructions=instructions,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )

    async def _list_tools(self, context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        return await self._ask(lambda remote: remote.list_tools())

    async def _call_tool(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        async def report(progress: float, total: float | None, message: str | None) -> None:
            await context.session.report_progress(progress, total, message)

        async def call(remote: Client) -> CallToolResult:
            # raw: what our own control plane answers needs no second look at its schema
            asked = CallToolRequest(params=CallToolRequestParams(name=params.name, arguments=params.arguments))
            return await remote.session.send_request(asked, CallToolResult, progress_callback=report)

        try:
            return await self._ask(call)
        except MCPError as error:
            if error.error.code != INTERNAL_ERROR:
                raise
            return CallToolResult(content=[TextContent(text=error.error.message)], is_error=True)

    async def _list_resources(self, context: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        return await self._ask(lambda remote: remote.list_resources())

    async def _list_templates(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        return await self._ask(lambda remote: remote.list_resource_templates())

    async def _read_resource(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        return await self._ask(lambda remote: remote.read_resource(params.uri))

    async def _ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """Return the answer to one question, asked over a client of its own.

        The SDK's client does not survive a connection that is refused, and one costs no more than a few objects: the
        connections are `self._http`'s, and the version is known, so nothing is negotiated.
        """
        transport = streamable_http_client(f"{self._url}/mcp", http_client=self._http, max_sse_event_size=_LARGEST)
        try:
            async with Client(transport, mode=LATEST_MODERN_VERSION, cache=None) as remote:
                return await question(remote)
        except (MCPError, httpx2.HTTPError, BaseExceptionGroup) as error:
            raise self._mended(error) from None

    def _mended(self, error: BaseException) -> BaseException:
        """Return the one failure among those that a group holds; an absent control plane with the way out."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, MCPError) and error.error.code != INTERNAL_ERROR:
            return error
        if not isinstance(error, (MCPError, httpx2.HTTPError)):
            return error
        return MCPError(
            code=INTERNAL_ERROR,
            message=f"The control plane at {self._url} gave no answer ({error}). "
            "Start it with `clawplane up`, or check CLAWPLANE_URL and CLAWPLANE_API_KEY.",
        )
