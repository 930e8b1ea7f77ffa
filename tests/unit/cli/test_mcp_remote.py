"""`clawplane mcp --remote` as an agent starts it, against a Task API that is served over a real store."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

TESTS = str(Path(__file__).parents[2])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

from task_plane import TOKEN, TaskPlane, task_plane  # noqa: E402 - found through the line above

from clawplane.cli.mcp_remote import Remote  # noqa: E402


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[TaskPlane]:
    async with task_plane(tmp_path) as found:
        yield found


@dataclass
class Agent:
    """What started the process and speaks to it."""

    process: asyncio.subprocess.Process

    def tell(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    def ask(self, number: Any, method: str, **params: Any) -> None:
        body = {"jsonrpc": "2.0", "id": number, "method": method}
        self.tell(json.dumps(body | ({"params": params} if params else {})).encode())

    async def hear(self) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())

    async def call(self, tool: str, **arguments: Any) -> Any:
        self.ask(9, "tools/call", name=tool, arguments=arguments)
        return await self.hear()


@asynccontextmanager
async def started(url: str, token: str = TOKEN) -> AsyncIterator[Agent]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAWPLANE_", "MAC_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clawplane", "mcp", "--remote"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=kept | {"MAC_WORKER_URL": url, "MAC_WORKER_TOKEN": token},
    )
    yield Agent(process)
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(30):
        assert await process.wait() == 0


@asynccontextmanager
async def agent_of(plane: TaskPlane, token: str = TOKEN) -> AsyncIterator[Agent]:
    async with started(f"http://127.0.0.1:{plane.address[1]}", token) as agent:
        yield agent


async def done_by_a_runner(plane: TaskPlane, **report: Any) -> dict[str, Any]:
    runner = plane.client()
    task: dict[str, Any] = (await runner.get("/worker/poll?wait=20000")).json
    assert (await runner.post("/worker/result", {"taskId": task["id"], **report})).status == 200
    return task


async def test_the_handshake_is_the_one_that_agents_know_and_notifications_are_silent(plane: TaskPlane) -> None:
    async with agent_of(plane) as agent:
        agent.ask(1, "initialize", protocolVersion="2024-11-05")
        hello = (await agent.hear())["result"]
        agent.tell(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        agent.tell(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}')
        agent.tell(b'{"jsonrpc":"2.0","method":"tools/call"}')
        agent.ask("two", "ping")
        assert await agent.hear() == {"jsonrpc": "2.0", "id": "two", "result": {}}
        agent.ask(3, "tools/list")
        tools = {tool["name"]: tool for tool in (await agent.hear())["result"]["tools"]}
    assert (hello["protocolVersion"], hello["capabilities"]) == ("2024-11-05", {"tools": {}})
    assert hello["serverInfo"] == {"name": "mac-remote-mcp", "version": "1.0.0"}
    assert tools["mac_remote"]["inputSchema"]["required"] == ["command"]
    assert set(tools["mac_remote"]["inputSchema"]["properties"]) == {"command", "timeout"}


@pytest.mark.parametrize(
    ("line", "number", "code"),
    [
        (b"{", None, -32700),
        (b"[]", None, -32600),
        (b'{"id":1,"method":"dance"}', 1, -32601),
        (b'{"id":1,"method":"tools/call"}', 1, -32601),
        (b'{"id":1,"method":"tools/call","params":{"name":"mac_remote"}}', 1, -32602),
        (b'{"id":1,"method":"tools/call","params":{"name":"mac_remote","arguments":{"command":" "}}}', 1, -32602),
        (b'{"id":1,"method":"tools/call","params":{"name":"mac_remote_result"}}', 1, -32602),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_its_code(
    plane: TaskPlane, line: bytes, number: int | None, code: int
) -> None:
    async with agent_of(plane) as agent:
        agent.tell(line)
        answer = await agent.hear()
    assert (answer["id"], answer["error"]["code"]) == (number, code)


@pytest.mark.parametrize(
    ("report", "text", "failed"),
    [
        ({"stdout": "one\n", "stderr": "", "exitCode": 0}, "Exit code: 0\none", False),
        ({"stdout": "", "stderr": "", "exitCode": 0}, "Exit code: 0\n(no output)", False),
        (
            {"stdout": "a", "stderr": "b", "exitCode": 3, "error": "c"},
            "Exit code: 3\na\n[stderr]\nb\n[error]\nc",
            True,
        ),
    ],
)
async def test_a_command_is_run_and_a_failure_is_marked(
    plane: TaskPlane, report: dict[str, Any], text: str, failed: bool
) -> None:
    async with agent_of(plane) as agent:
        agent.ask(1, "tools/call", name="mac_remote", arguments={"command": "make", "timeout": 5000})
        task = await done_by_a_runner(plane, **report)
        result = (await agent.hear())["result"]
    assert (task["command"], task["timeout"]) == ("make", 5000)
    assert result == {"content": [{"type": "text", "text": text}], "isError": failed}


async def test_a_ping_is_answered_while_a_command_runs(plane: TaskPlane) -> None:
    async with agent_of(plane) as agent:
        agent.ask(1, "tools/call", name="mac_remote", arguments={"command": "make"})
        agent.ask(2, "ping")
        assert (await agent.hear())["id"] == 2
        await done_by_a_runner(plane, stdout="x", exitCode=0)
        assert (await agent.hear())["id"] == 1


async def test_a_late_result_is_fetched_by_its_task_id(plane: TaskPlane) -> None:
    task = (await plane.client().post("/tasks", {"command": "make"})).json["taskId"]
    async with agent_of(plane) as agent:
        waiting = asyncio.create_task(agent.call("mac_remote_result", taskId=task))
        await done_by_a_runner(plane, stdout="late", exitCode=0)
        assert (await waiting)["result"]["content"][0]["text"] == "Exit code: 0\nlate"
        unknown = (await agent.call("mac_remote_result", taskId=task))["result"]
    assert (unknown["isError"], unknown["content"][0]["text"]) == (True, "Error: Task not found")


async def test_what_has_not_ended_is_told_with_its_task_id_and_is_no_error(plane: TaskPlane) -> None:
    head = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{plane.address[1]}", headers=head) as http:
        remote = Remote(http, wait_ms=10)
        arguments = {"name": "mac_remote", "arguments": {"command": "make"}}
        line = json.dumps({"id": 1, "method": "tools/call", "params": arguments}).encode()
        result = (await remote.heard(line) or {})["result"]
    task = (await plane.client().get("/worker/poll?wait=1000")).json["id"]
    assert not result["isError"]
    assert f"mac_remote_result with taskId {task}" in result["content"][0]["text"]
    assert "may be offline" in result["content"][0]["text"]


async def test_a_wrong_token_and_an_absent_server_are_named_in_the_answer(plane: TaskPlane) -> None:
    async with agent_of(plane, token="wrong-token-of-sixteen") as agent:
        refused = (await agent.call("mac_remote", command="make"))["result"]
    async with started("http://127.0.0.1:1") as agent:
        absent = (await agent.call("mac_remote", command="make"))["result"]
    assert refused["isError"]
    assert "MAC_WORKER_TOKEN" in refused["content"][0]["text"]
    assert absent["isError"]
    assert "MAC_WORKER_URL" in absent["content"][0]["text"]
