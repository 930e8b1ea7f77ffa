"""The endpoint on the level of HTTP: who is let in, what is refused, what a stream looks like."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from scripted import KEY, READER, Endpoint

VERSION = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}


def request(method: str = "tools/list", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


def modern(method: str = "tools/list", **params: Any) -> tuple[dict[str, Any], dict[str, str]]:
    headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": method}
    if "name" in params:
        headers["Mcp-Name"] = params["name"]
    return request(method, _meta=ENVELOPE, **params), headers


def client(here: Endpoint, key: str | None = KEY) -> httpx.AsyncClient:
    headers = {"Accept": "application/json, text/event-stream"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.AsyncClient(base_url=here.url, headers=headers, timeout=10, trust_env=False)


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("x" * 30, 401), (READER, 403)])
async def test_nobody_comes_in_without_a_key_for_sessions(here: Endpoint, key: str | None, status: int) -> None:
    async with client(here, key) as http:
        answer = await http.post("/mcp", json=request())
    assert answer.status_code == status


async def test_an_earlier_version_needs_nothing_but_its_header(here: Endpoint) -> None:
    async with client(here) as http:
        answer = await http.post("/mcp", json=request(), headers={"MCP-Protocol-Version": "2025-06-18"})
    assert answer.status_code == 200
    assert answer.json()["id"] == 7
    assert "session-id" not in str(answer.headers).lower()


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25", "2025-03-26"])
async def test_the_handshake_agrees_to_the_version_that_is_offered(here: Endpoint, version: str) -> None:
    hello = request("initialize", protocolVersion=version, capabilities={}, clientInfo={"name": "test", "version": "1"})
    async with client(here) as http:
        answer = await http.post("/mcp", json=hello)
        ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        accepted = await http.post("/mcp", json=ready, headers={"Mcp-Session-Id": answer.headers["mcp-session-id"]})
    assert answer.json()["result"]["protocolVersion"] == version
    assert accepted.status_code == 202


async def test_a_version_nobody_knows_is_refused_with_those_that_are(here: Endpoint) -> None:
    body, headers = modern()
    body["params"]["_meta"] = {**ENVELOPE, "io.modelcontextprotocol/protocolVersion": "2031-01-01"}
    async with client(here) as http:
        answer = await http.post("/mcp", json=body, headers={**headers, "MCP-Protocol-Version": "2031-01-01"})
    assert answer.status_code == 400
    assert answer.json()["error"]["data"]["supported"] == [VERSION]


async def test_headers_that_contradict_the_body_are_refused(here: Endpoint) -> None:
    body, headers = modern("tools/call", name="reset_repl", arguments={})
    async with client(here) as http:
        answer = await http.post("/mcp", json=body, headers={**headers, "Mcp-Name": "execute_shell"})
    assert answer.status_code == 400
    assert here.sessions.sessions == {}


@pytest.mark.parametrize(
    ("content", "media", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 200 + b"]" * 200, "application/json", 400),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', "application/json", 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', "application/json", 400),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', "application/json", 400),
        (b"{}", "text/plain", 415),
    ],
)
async def test_a_body_that_is_no_message_is_refused(here: Endpoint, content: bytes, media: str, status: int) -> None:
    async with client(here) as http:
        answer = await http.post("/mcp", content=content, headers={"Content-Type": media})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_an_unknown_tool_and_an_unknown_method_are_errors_of_the_protocol(here: Endpoint) -> None:
    tool, tool_headers = modern("tools/call", name="rm_rf", arguments={})
    method, method_headers = modern("nothing/known")
    async with client(here) as http:
        one = await http.post("/mcp", json=tool, headers=tool_headers)
        other = await http.post("/mcp", json=method, headers=method_headers)
    assert "rm_rf" in one.json()["error"]["message"]
    assert (other.status_code, other.json()["error"]["code"]) == (404, -32601)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("http://rebound.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://localhost:6274", 200),
        ("https://plane.example", 200),
    ],
)
async def test_pages_of_other_origins_are_refused(here: Endpoint, origin: str, status: int) -> None:
    body, headers = modern()
    async with client(here) as http:
        answer = await http.post("/mcp", json=body, headers={**headers, "Origin": origin, "Host": "rebound.example"})
    assert answer.status_code == status


async def test_a_client_that_takes_no_stream_waits_for_one_piece(here: Endpoint) -> None:
    body, headers = modern("tools/call", name="execute_python", arguments={"code": "wait"})
    body["params"]["_meta"] = {**ENVELOPE, "progressToken": "p"}
    async with client(here) as http:
        asking = asyncio.create_task(http.post("/mcp", json=body, headers={**headers, "Accept": "application/json"}))
        await asyncio.wait_for(here.sessions.waiting.wait(), 10)
        here.sessions.release.set()
        answer = await asking
        refused = await http.post("/mcp", json=body, headers={**headers, "Accept": "text/html"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["structuredContent"]["stdout"] == "one\ntwo\n"
    assert refused.status_code == 406


async def test_there_is_no_stream_to_get_and_good_bye_is_heard(here: Endpoint) -> None:
    async with client(here) as http:
        assert (await http.get("/mcp")).status_code == 405
        assert (await http.delete("/mcp", headers={"Mcp-Session-Id": "abc"})).status_code == 204


async def test_a_short_call_is_answered_with_plain_json(here: Endpoint) -> None:
    body, headers = modern("tools/call", name="execute_python", arguments={"code": "1+1"})
    async with client(here) as http:
        answer = await http.post("/mcp", json=body, headers=headers)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["structuredContent"]["results"][0]["texts"] == {"text/plain": "2"}


async def test_a_client_of_an_earlier_version_that_is_cut_off_does_not_stop_the_code(here: Endpoint) -> None:
    body = request("tools/call", name="execute_python", arguments={"code": "wait"})
    async with client(here) as http:
        waiting = asyncio.create_task(http.post("/mcp", json=body, headers={"MCP-Protocol-Version": "2025-11-25"}))
        await asyncio.wait_for(here.sessions.waiting.wait(), 10)
        waiting.cancel()
    async with client(here) as http:  # a whole exchange later it still runs
        await http.post("/mcp", json=request(), headers={"MCP-Protocol-Version": "2025-11-25"})
    assert not here.sessions.interrupted.is_set()
    here.sessions.release.set()


async def test_only_the_client_that_made_a_call_takes_it_back(here: Endpoint) -> None:
    body = request("tools/call", name="execute_python", arguments={"code": "wait"})
    back = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    headers = {"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": "mine"}
    async with client(here) as http:
        waiting = asyncio.create_task(http.post("/mcp", json=body, headers=headers))
        await asyncio.wait_for(here.sessions.waiting.wait(), 10)
        await http.post("/mcp", json=back, headers={**headers, "Mcp-Session-Id": "other"})
        assert not here.sessions.interrupted.is_set()
        await http.post("/mcp", json=back, headers=headers)
        await asyncio.wait_for(here.sessions.interrupted.wait(), 10)
        answer = await waiting
    assert answer.json()["error"]["message"] == "The call was cancelled."


async def test_a_call_that_prints_becomes_a_stream_that_ends_with_its_result(here: Endpoint) -> None:
    meta = {**ENVELOPE, "progressToken": "p"}
    body, headers = modern("tools/call", name="execute_python", arguments={"code": "wait"})
    body["params"]["_meta"] = meta
    events = []
    async with client(here) as http, http.stream("POST", "/mcp", json=body, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
                here.sessions.release.set()
    assert events[0]["method"] == "notifications/progress"
    assert events[0]["params"]["progressToken"] == "p"
    assert events[-1]["result"]["structuredContent"]["stdout"] == "one\ntwo\n"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_number_that_json_does_not_have_is_named_by_the_tool(here: Endpoint, number: str) -> None:
    body, headers = modern("tools/call", name="execute_python", arguments={"code": "1", "timeout": "@"})
    text = json.dumps(body).replace('"@"', number)
    async with client(here) as http:
        answer = await http.post("/mcp", content=text, headers={**headers, "Content-Type": "application/json"})
    result = answer.json()["result"]
    assert result["isError"]
    assert result["structuredContent"]["error"].startswith("timeout: ")
    assert here.sessions.sessions == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"jsonrpc": "2.0", "id": NaN, "method": "tools/list"}', "id: NaN is no number of JSON"),
        (
            '{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"a": [1e999]}}',
            "params.a[0]: a number beyond",
        ),
        ('{"jsonrpc": "2.0", "id": 1, "method": "\\ud800"}', "surrogate"),
        ("NaN", "the body: NaN"),
    ],
)
async def test_elsewhere_it_is_refused_with_its_place(here: Endpoint, text: str, reason: str) -> None:
    async with client(here) as http:
        answer = await http.post("/mcp", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert reason in answer.json()["error"]["message"]


async def test_a_model_that_sends_too_much_reads_how_a_large_file_is_written(here: Endpoint) -> None:
    body, headers = modern("tools/call", name="workspace_write", arguments={"path": "a", "content": "x" * (8 << 20)})
    async with client(here) as http:
        answer = await http.post("/mcp", json=body, headers=headers)
    assert answer.status_code == 413
    message = answer.json()["error"]["message"]
    assert message.startswith("The request body is larger than 8388608 bytes. ")
    assert "append" in message
    assert "PUT /v1/sessions/{id}/files/content" in message
