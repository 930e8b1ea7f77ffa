"""Whatever arrives at the endpoint is answered as the protocol says, and never by a failure of ours."""

from __future__ import annotations

import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import PUBLIC, ScriptedSessions

from clawplane.api.mcp.server import Visitor, build_server
from clawplane.api.mcp.table import table
from clawplane.api.mcp.transport import Transport
from clawplane.domain.access import Caller, Scope

CALLER = Caller(key_id="k", owner="o", scopes=frozenset({Scope.SESSIONS}))
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
INTERNAL = -32603

names = st.sampled_from([entry.name for entry in table()])
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=20)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))
keys = st.sampled_from(
    ["code", "command", "timeout", "session_id", "path", "old", "new", "content", "encoding", "offset", "limit"]
)
arguments = st.dictionaries(keys | st.text(max_size=6), values, max_size=5)
methods = st.sampled_from(["initialize", "ping", "tools/list", "tools/call", "resources/read", "server/discover"])
messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | values,
        "id": values,
        "method": methods | values,
        "params": values | st.fixed_dictionaries({}, optional={"name": names, "arguments": values, "_meta": values}),
    },
)
versions = st.sampled_from(["2025-06-18", "2025-11-25", "2026-07-28", "9999-99-99", ""])


def http() -> httpx.AsyncClient:
    transport = Transport(build_server(ScriptedSessions(), "1"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await transport.handle(scope, receive, send, Visitor(CALLER, PUBLIC))

    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here")


SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(content=st.binary(max_size=60) | messages.map(lambda value: json.dumps(value).encode()), version=versions)
async def test_any_body_is_answered_by_the_protocol(content: bytes, version: str) -> None:
    headers = {"Content-Type": "application/json"} | ({"MCP-Protocol-Version": version} if version else {})
    async with http() as client:
        answer = await client.post("/mcp", content=content, headers=headers)
    assert answer.status_code in (200, 202, 400, 404)
    if answer.status_code != 202:
        body = answer.json()
        assert body["jsonrpc"] == "2.0"
        assert body.get("error", {}).get("code") != INTERNAL


@SETTINGS
@given(name=names, given_=arguments, modern=st.booleans())
async def test_any_arguments_of_any_tool_are_judged_and_never_a_defect(
    name: str, given_: dict[str, Any], modern: bool
) -> None:
    params: dict[str, Any] = {"name": name, "arguments": given_} | ({"_meta": META} if modern else {})
    headers = {"Content-Type": "application/json", "MCP-Protocol-Version": "2026-07-28" if modern else "2025-11-25"}
    if modern:
        headers |= {"Mcp-Method": "tools/call", "Mcp-Name": name}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    async with http() as client:
        answer = await client.post("/mcp", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["content"]
