"""Whatever is wrong with what a session is asked is refused by its name, early, and nothing runs: on every way in."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from e2b_code_interpreter import E2B
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

MIB = 1 << 20
GIB = 1 << 30
BODY_LIMIT, UPLOAD_LIMIT = 8 << 20, 101_000_000
MOST_GROWTH = 48 * MIB
"""More than a whole body of the smaller limit, read and parsed, and far less than what is sent here."""
TOOLS = {"python": "code", "shell": "command", "node": "code"}
MCP_HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "MCP-Protocol-Version": "2025-06-18"}


@pytest.fixture(scope="module")
def http_(plane: Any) -> Iterator[httpx.Client]:
    with plane.http() as client:
        yield client


@dataclass
class Session:
    """A session, asked over plain HTTP, the route of sessions, and MCP with bodies that no client would write."""

    http: httpx.Client
    id: str

    def ways(self, tool: str, members: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ask with members written by hand on each way; yield the way's name, and the refusal."""
        members = f'{members}{", " if members else ""}"session_id": "{self.id}"'
        raw = {"Content-Type": "application/json"}
        answer = self.http.post(f"/v1/tools/execute_{tool}", content=written(f"{{{members}}}"), headers=raw)
        assert answer.status_code == 422, answer.text
        assert (answer.json()["stdout"], answer.json()["stderr"]) == ("", "")
        assert answer.json()["hint"]
        yield "http", answer.json()
        arguments = f'{{"name": "execute_{tool}", "arguments": {{{members}}}}}'
        call = f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {arguments}}}'
        answer = self.http.post("/mcp", content=written(call), headers=MCP_HEADERS)
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        assert result["isError"] is True
        yield "mcp", result["structuredContent"]

    def refused(self, tool: str, members: str, named: str) -> None:
        """See a request refused on each way by the name of its field, and nothing executed."""
        for way, refusal in self.ways(tool, members):
            assert refusal["error"].startswith(f"{named}: "), (way, refusal)
        assert self.http.get(f"/v1/sessions/{self.id}/execs").json()["count"] == 0

    def works(self) -> None:
        answer = self.http.post("/v1/tools/execute_python", json={"code": "6 * 7", "session_id": self.id}).json()
        assert answer["results"][0]["text/plain"] == "42"


def written(text: str) -> bytes:
    """Return text as bytes, half surrogate pairs too, as a careless program would write them."""
    return text.encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def untouched(http_: httpx.Client) -> Iterator[Session]:
    """A session in which nothing may ever run."""
    session = Session(http_, http_.post("/v1/sessions", json={"profile": "bare"}).json()["id"])
    yield session
    session.works()
    http_.delete(f"/v1/sessions/{session.id}")


TIMEOUTS = {
    "zero": "0",
    "negative": "-1",
    "too-long": "121",
    "text": '"30"',
    "nan": "NaN",
    "null": "null",
    "true": "true",
    "infinite": "1e309",
    "minus-infinite": "-Infinity",
    "list": "[30]",
}
CODES = {
    "missing": "",
    "null": '"FIELD": null',
    "number": '"FIELD": 5',
    "list": '"FIELD": ["1"]',
    "object": '"FIELD": {"a": 1}',
    "nul": '"FIELD": "1\\u0000"',
    "escaped-surrogate": '"FIELD": "\\ud800"',
    "written-surrogate": '"FIELD": "\ud800"',
    "wrong-pair": '"FIELD": "\\udc00\\ud800"',
}


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("tool", TOOLS)
def test_a_timeout_that_is_none_is_refused_by_its_name_on_every_way(untouched: Session, tool: str, name: str) -> None:
    untouched.refused(tool, f'"{TOOLS[tool]}": "1", "timeout": {TIMEOUTS[name]}', "timeout")


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("tool", TOOLS)
def test_code_that_is_none_is_refused_by_its_name_on_every_way(untouched: Session, tool: str, name: str) -> None:
    untouched.refused(tool, CODES[name].replace("FIELD", TOOLS[tool]), TOOLS[tool])


@pytest.mark.parametrize("tool", TOOLS)
def test_the_route_of_a_session_refuses_what_the_tools_refuse(untouched: Session, tool: str) -> None:
    bad = [(f'"code": "1", "timeout": {text}', "timeout") for text in TIMEOUTS.values()]
    bad += [(text.replace("FIELD", "code"), "code") for text in CODES.values()]
    for members, named in bad:
        body = f'{{{members}{", " if members else ""}"tool": "{tool}"}}'
        answer = untouched.http.post(f"/v1/sessions/{untouched.id}/exec", content=written(body))
        assert answer.status_code == 422, (members, answer.text)
        assert answer.json()["error"].startswith(f"{named}: "), (members, answer.text)
    assert untouched.http.get(f"/v1/sessions/{untouched.id}/execs").json()["count"] == 0


SYNTAX = {
    "python": ("def f(:", "SyntaxError: ", "def f(:"),
    "shell": ("if then", "exit code 2", "syntax error"),
    "node": ("function (", "exit code 1", "SyntaxError: "),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_syntax_error_is_a_result_that_shows_it_and_the_session_goes_on(http_: httpx.Client, tool: str) -> None:
    code, error, shown = SYNTAX[tool]
    session = Session(http_, http_.post("/v1/sessions", json={"profile": "bare"}).json()["id"])
    body = {TOOLS[tool]: code, "session_id": session.id}
    plain = http_.post(f"/v1/tools/execute_{tool}", json=body)
    params = {"name": f"execute_{tool}", "arguments": body}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    spoken = http_.post("/mcp", json=call, headers=MCP_HEADERS).json()["result"]
    assert plain.status_code == 200
    assert spoken["isError"] is True
    for result in (plain.json(), spoken["structuredContent"]):
        assert result["error"].startswith(error), result
        assert shown in result["stderr"]
        assert result["stdout"] == ""
    session.works()
    http_.delete(f"/v1/sessions/{session.id}")


# Bodies of a gigabyte


@dataclass
class Gigabyte:
    """A body of a gigabyte that is made while it is sent; `sent` counts what somebody took."""

    sent: int = 0
    piece: bytes = field(default=b" " * MIB, repr=False)

    def __iter__(self) -> Iterator[bytes]:
        while self.sent < GIB:
            self.sent += MIB
            yield self.piece


@dataclass
class Daemons:
    """The control plane and the runner of a plane, as their kernel counts them."""

    pids: list[int]
    before: dict[int, int] = field(default_factory=dict)

    def forget(self) -> None:
        """Let the peak begin anew, where the kernel can do that; elsewhere the old one is what counts."""
        for pid in self.pids:
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before = {pid: _peak(pid) for pid in self.pids}

    def grown(self) -> int:
        """Return by how many bytes the peak of any of them has grown since."""
        return max(_peak(pid) - peak for pid, peak in self.before.items())


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def _words(entry: Path) -> list[bytes]:
    try:
        return (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []  # it ended meanwhile


@pytest.fixture(scope="module")
def daemons(plane: Any, http_: httpx.Client) -> Daemons:
    found = {}
    for entry in Path("/proc").iterdir():
        words = _words(entry) if entry.name.isdigit() else []
        if os.fsencode(plane.data) in words:
            found.update({word: int(entry.name) for word in (b"serve", b"runner") if word in words})
    assert len(found) == 2, found
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert http_.post("/mcp", json=listing, headers=MCP_HEADERS).status_code == 200  # so that MCP is loaded before
    return Daemons(list(found.values()))


ROUTES: dict[str, tuple[str, str, int]] = {
    "python": ("POST", "/v1/tools/execute_python", BODY_LIMIT),
    "write": ("POST", "/v1/tools/workspace_write", BODY_LIMIT),
    "exec": ("POST", "/v1/sessions/ID/exec", BODY_LIMIT),
    "edit": ("POST", "/v1/sessions/ID/files/edit", BODY_LIMIT),
    "upload": ("PUT", "/v1/sessions/ID/files/content?path=big", UPLOAD_LIMIT),
    "mcp": ("POST", "/mcp", BODY_LIMIT),
}


def sentence(route: str, answer: Any) -> str:
    """Return what a refusal says, in the form that its route has."""
    if route == "mcp":
        assert answer["jsonrpc"] == "2.0"
        return str(answer["error"]["message"])
    assert answer["code"] == "too_large"
    return str(answer["error"])


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_body_of_a_gigabyte_is_refused_early_and_is_never_in_memory(
    http_: httpx.Client, untouched: Session, daemons: Daemons, route: str, framing: str
) -> None:
    method, path, limit = ROUTES[route]
    headers = MCP_HEADERS | ({"Content-Length": str(GIB)} if framing == "length" else {})
    body = Gigabyte()
    daemons.forget()
    answer = http_.request(method, path.replace("ID", untouched.id), content=iter(body), headers=headers)
    assert answer.status_code == 413
    assert sentence(route, answer.json()).startswith(f"The request body is larger than {limit} bytes.")
    assert answer.headers["connection"] == "close"
    assert body.sent < GIB // 4
    assert daemons.grown() < MOST_GROWTH
    assert untouched.http.get(f"/v1/sessions/{untouched.id}/files").json()["files"] == []
    assert untouched.http.get(f"/v1/sessions/{untouched.id}/execs").json()["count"] == 0


@pytest.mark.parametrize("route", ROUTES)
def test_a_gigabyte_that_is_announced_is_refused_before_a_byte_of_it_is_sent(
    plane: Any, untouched: Session, route: str
) -> None:
    method, path, limit = ROUTES[route]
    lines = [f"{method} {path.replace('ID', untouched.id)} HTTP/1.1", "Host: x", f"Authorization: Bearer {plane.key}"]
    lines += [f"{name}: {value}" for name, value in MCP_HEADERS.items()]
    lines += [f"Content-Length: {GIB}", "Expect: 100-continue", "", ""]
    with socket.create_connection(("127.0.0.1", plane.port), 30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        said = b""
        while block := connection.recv(65536):  # to the end: the server closes by itself
            said += block
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")  # and no "100 Continue" before it
    assert sentence(route, json.loads(body)).startswith(f"The request body is larger than {limit} bytes.")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_gigabyte_for_a_file_of_an_e2b_sandbox_is_refused_too(plane: Any, daemons: Daemons, framing: str) -> None:
    sandbox: Any = E2B(api_key=plane.key, api_url=plane.url, sandbox_url=plane.url).Sandbox.create("bare")
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    headers |= {"X-Access-Token": sandbox._envd_access_token, "Content-Type": "application/octet-stream"}
    headers |= {"Content-Length": str(GIB)} if framing == "length" else {}
    body = Gigabyte()
    daemons.forget()
    with httpx.Client(base_url=plane.url, trust_env=False, timeout=60) as client:
        answer = client.post("/files", params={"path": "big"}, content=iter(body), headers=headers)
    assert answer.status_code == 413
    assert "larger than 101000000 bytes" in answer.json()["message"]
    assert body.sent < GIB // 4
    assert daemons.grown() < MOST_GROWTH
    assert sandbox.files.list(".") == []
    sandbox.kill()


async def test_a_model_that_sends_too_much_over_mcp_reads_why_and_goes_on(plane: Any) -> None:
    headers = {"Authorization": f"Bearer {plane.key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(f"{plane.url}/mcp", http_client=http), mode="2026-07-28") as client,
    ):
        with pytest.raises(MCPError, match=r"larger than 8388608 bytes\. Send less"):
            await client.call_tool("workspace_write", {"path": "big.txt", "content": "x" * (30 * MIB)})
        made: Any = await client.call_tool("session_create", {"profile": "bare"})
        await client.call_tool("session_delete", {"session_id": made.structured_content["session_id"]})
    assert not made.is_error
