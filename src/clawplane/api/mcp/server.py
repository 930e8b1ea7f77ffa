"""The MCP server: the SDK's kernel with our table of tools behind it; it knows no transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    ResourceTemplate,
)

from clawplane.api.mcp import answers, file_tools
from clawplane.api.mcp.arguments import parse
from clawplane.api.mcp.calls import ToolCall
from clawplane.api.mcp.entries import ToolEntry
from clawplane.api.mcp.host_table import host_table
from clawplane.api.mcp.host_tools import HostDesk
from clawplane.api.mcp.progress import INTERVAL
from clawplane.api.mcp.sessions import Sessions
from clawplane.api.mcp.table import table
from clawplane.domain.access import Caller, Scope
from clawplane.domain.errors import ClawplaneError

INSTRUCTIONS: Final = (
    "A computer to run code on. execute_python keeps variables between calls; execute_shell and execute_node share its "
    "files in /workspace. Every answer carries a session_id: pass it to the next call to go on in the same session. "
    "stdout, stderr and error are always there; error is null on success. Long output is shortened, and the answer "
    "names the workspace file that has all of it."
)
HOST_INSTRUCTIONS: Final = (
    " Beside it, where they are listed: run_command, file_* and ask_* act on real machines of people, with all rights "
    "there; what takes long is fetched with task_result."
)
_LIST_FRESH_MS: Final = 3_600_000

Context = ServerRequestContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who sent a request, and the address under which they reach us; the transport hands it to each call."""

    caller: Caller
    base: str


def build_server(
    sessions: Sessions, version: str, *, interval: float = INTERVAL, host: HostDesk | None = None
) -> Server[Any]:
    """Return the server; `interval` is the least time between two progress notifications in seconds.

    With `host` there are tools for host tasks, which only keys with that scope see.
    """
    entries = {entry.name: entry for entry in (*table(), *(() if host is None else host_table()))}
    tools = ListToolsResult(tools=[entry.described() for entry in entries.values()])

    async def list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        caller = _visitor(context).caller
        return ListToolsResult(tools=[tool for tool in tools.tools if caller.may(entries[tool.name].scope)])

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        entry = entries.get(params.name)
        if entry is None or not _visitor(context).caller.may(entry.scope):
            raise MCPError(code=INVALID_PARAMS, message=f"There is no tool {params.name[:80]!r}.")
        return await _run(entry, _call(context, sessions, interval, host), params.arguments)

    async def list_resources(context: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        return ListResourcesResult(resources=[])  # files are found with workspace_list, and linked by answers

    async def list_templates(context: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult(resource_templates=[_file_template()])

    async def read_resource(context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        if not _visitor(context).caller.may(Scope.SESSIONS):
            raise MCPError(code=INVALID_PARAMS, message="This key reads no files of sessions.")
        try:
            return await file_tools.read_resource(_call(context, sessions, interval), params.uri)
        except ClawplaneError as error:
            raise MCPError(code=INVALID_PARAMS, message=f"{error.message} {error.hint}".strip()) from None

    server: Server[Any] = Server(
        "clawplane",
        version=version,
        title="clawplane",
        instructions=INSTRUCTIONS if host is None else INSTRUCTIONS + HOST_INSTRUCTIONS,
        cache_hints={"tools/list": CacheHint(ttl_ms=_LIST_FRESH_MS, scope="public" if host is None else "private")},
        get_tool_input_schema=_schemas(tools),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )
    server.middleware.clear()  # traces are not collected, and a span per call costs more than the rest of the kernel
    return server


async def _run(entry: ToolEntry, call: ToolCall, arguments: dict[str, Any] | None) -> CallToolResult:
    try:
        return await entry.handler(call, parse(arguments, entry.arguments))
    except ClawplaneError as error:
        given = (arguments or {}).get("session_id")
        return answers.refusal(error, session_id=given if isinstance(given, str) else "", as_code=entry.code)


def _visitor(context: Context) -> Visitor:
    visitor = context.request
    if not isinstance(visitor, Visitor):
        raise TypeError("the transport named nobody who calls")
    return visitor


def _call(context: Context, sessions: Sessions, interval: float, host: HostDesk | None = None) -> ToolCall:
    visitor = _visitor(context)

    async def report(seconds: float, tail: str) -> None:
        await context.session.report_progress(round(seconds, 3), message=tail)

    return ToolCall(sessions, visitor.caller, visitor.base, report, interval, host)


def _schemas(tools: ListToolsResult) -> Callable[[str], dict[str, Any] | None]:
    found = {tool.name: tool.input_schema for tool in tools.tools}
    return found.get


def _file_template() -> ResourceTemplate:
    return ResourceTemplate(
        name="workspace file",
        uri_template=answers.FILE_TEMPLATE,
        description="A file in the workspace of a session.",
    )
