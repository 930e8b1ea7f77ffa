"""The tools for host tasks, called by the official client over a real server; the runner is played."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import uvicorn
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

TESTS = str(Path(__file__).parents[3])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

from listening import Server  # noqa: E402 - found through the lines above
from plane import Plane, ScriptedRunner, plane  # noqa: E402

from clawplane.domain.access import Scope  # noqa: E402
from clawplane.domain.batches import INFO, Batch, LogLine  # noqa: E402
from clawplane.domain.host_tasks import HostSpec, TaskReport  # noqa: E402
from clawplane.domain.leases import Offer  # noqa: E402

TAKES = ("host", *(f"host@{group}" for group in ("command", "files", "claude", "codex", "gemini")))
HOST_TOOLS = [
    "run_command",
    "file_read",
    "file_write",
    "file_edit",
    "ask_claude",
    "ask_codex",
    "ask_gemini",
    "task_result",
    "task_cancel",
]


@dataclass
class Place:
    """A control plane that is served, with a runner."""

    plane: Plane
    runner: ScriptedRunner
    url: str

    @asynccontextmanager
    async def client(self, *scopes: Scope, owner: str = "owner") -> AsyncIterator[Client]:
        key = await self.plane.key(*scopes, owner=owner)
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False) as http,
            Client(streamable_http_client(f"{self.url}/mcp", http_client=http), mode="2026-07-28") as client,
        ):
            yield client

    async def taken(self) -> tuple[Offer, HostSpec]:
        offer = await self.runner.take()
        return offer, msgspec.msgpack.decode(offer.spec, type=HostSpec)

    async def say(self, offer: Offer, text: str) -> None:
        logs = (LogLine(INFO, text, 1_000, "stdout"),)
        await self.plane.flows.leases.ship(self.runner.id, Batch(job=offer.job, fence=offer.fence, seq=1, logs=logs))

    async def end(self, offer: Offer, stdout: str = "", code: int = 0, error: str | None = None) -> None:
        report = TaskReport(stdout=stdout, exit_code=code, error=error, duration=5)
        await self.runner.end(offer, succeeded=code == 0, exit_code=code, result=msgspec.msgpack.encode(report))


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with plane(tmp_path, host=True) as opened:
        runner = opened.runner(capabilities=TAKES, slots={"host": 5})
        await runner.connect()
        config = uvicorn.Config(opened.app, lifespan="off", log_config=None, access_log=False)
        config.timeout_graceful_shutdown = 1
        server = Server(config)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.bind(("127.0.0.1", 0))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            yield Place(opened, runner, f"http://127.0.0.1:{listener.getsockname()[1]}")
            server.should_exit = True
            await serving


async def call(client: Client, tool: str, /, **arguments: Any) -> CallToolResult:
    async with asyncio.timeout(20):
        result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


async def test_only_keys_with_the_scope_host_see_the_tools_and_no_others(here: Place) -> None:
    async with here.client(Scope.HOST) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == HOST_TOOLS
        with pytest.raises(MCPError, match="There is no tool"):
            await call(client, "execute_shell", command="ls")
        with pytest.raises(MCPError, match="reads no files"):
            await client.read_resource("clawplane://sessions/s1/files/a")
    async with here.client(Scope.SESSIONS) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "execute_shell" in names
        assert not set(HOST_TOOLS) & set(names)
        with pytest.raises(MCPError, match="There is no tool"):
            await call(client, "run_command", command="ls")
    async with here.client(Scope.SESSIONS, Scope.HOST) as client:
        assert set(HOST_TOOLS) <= {tool.name for tool in (await client.list_tools()).tools}


async def test_a_command_is_run_and_its_end_is_structured(here: Place) -> None:
    async with here.client(Scope.HOST) as client:
        calling = asyncio.create_task(
            call(client, "run_command", command="make", cwd="/src", env={"A": "1"}, runner="scripted", timeout=5)
        )
        offer, spec = await here.taken()
        assert (spec.cwd, spec.env) == ("/src", {"A": "1"})
        assert msgspec.to_builtins(spec.work) == {"type": "command", "command": "make", "timeout": 5_000}
        await here.end(offer, "made\n")
        result = await calling
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert not result.is_error
    told = result.structured_content
    assert (told["status"], told["stdout"], told["exit_code"], told["error"]) == ("completed", "made\n", 0, None)
    schema = tools["run_command"].output_schema or {}
    assert set(schema["required"]) == {"task_id", "status", "stdout", "stderr", "exit_code", "error"}


async def test_a_failure_is_an_error_with_its_output(here: Place) -> None:
    async with here.client(Scope.HOST) as client:
        calling = asyncio.create_task(call(client, "run_command", command="make"))
        offer, _ = await here.taken()
        await here.end(offer, "so far", 2, "Exit code 2")
        result = await calling
    assert result.is_error
    assert result.structured_content["exit_code"] == 2
    assert result.structured_content["stdout"] == "so far"
    assert result.structured_content["error"] == "Exit code 2"


@pytest.mark.parametrize(
    ("tool", "arguments", "work"),
    [
        ("file_read", {"path": "a", "encoding": "base64"}, {"type": "file-read", "encoding": "base64"}),
        ("file_write", {"path": "a", "content": "b"}, {"type": "file-write", "content": "b", "encoding": "utf8"}),
        ("file_edit", {"path": "a", "old": "b", "new": "c"}, {"type": "file-edit", "old_string": "b"}),
        ("ask_claude", {"prompt": "p", "session_id": "s"}, {"cli": "claude", "session_id": "s"}),
        ("ask_codex", {"prompt": "p", "model": "m"}, {"cli": "codex", "model": "m"}),
        ("ask_gemini", {"prompt": "p"}, {"cli": "gemini", "prompt": "p"}),
    ],
)
async def test_every_tool_submits_its_work(
    here: Place, tool: str, arguments: dict[str, Any], work: dict[str, Any]
) -> None:
    async with here.client(Scope.HOST) as client:
        calling = asyncio.create_task(call(client, tool, **arguments))
        offer, spec = await here.taken()
        await here.end(offer, "content")
        assert (await calling).structured_content["stdout"] == "content"
    assert work.items() <= msgspec.to_builtins(spec.work).items()


async def test_what_takes_long_is_fetched_later_again_and_again(here: Place) -> None:
    async with here.client(Scope.HOST) as client:
        first = await call(client, "run_command", command="make", wait=0)
        task = first.structured_content["task_id"]
        assert not first.is_error
        assert first.structured_content["exit_code"] is None
        assert "task_result" in first.structured_content["hint"]
        offer, _ = await here.taken()
        waiting = asyncio.create_task(call(client, "task_result", task_id=task))
        await here.end(offer, "late\n")
        for result in (await waiting, await call(client, "task_result", task_id=task)):
            assert result.structured_content["stdout"] == "late\n"


async def test_progress_tells_why_a_task_waits_and_what_it_prints(here: Place) -> None:
    heard: list[str] = []
    printed = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")
        if "compiling" in (message or ""):
            printed.set()

    async with here.client(Scope.HOST) as client, asyncio.timeout(20):
        calling = asyncio.create_task(client.call_tool("run_command", {"command": "make"}, progress_callback=hear))
        offer, _ = await here.taken()
        await here.say(offer, "compiling")
        await printed.wait()
        await here.end(offer, "compiling\n")
        assert not (await calling).is_error
    assert heard[-1] == "compiling\n"


async def test_a_call_that_is_taken_back_cancels_its_task(here: Place) -> None:
    async with here.client(Scope.HOST) as client:
        calling = asyncio.create_task(client.call_tool("run_command", {"command": "sleep 99"}))
        offer, spec = await here.taken()
        calling.cancel()
        async with asyncio.timeout(20):
            while not here.runner.cancels:
                await asyncio.sleep(0.01)
    assert here.runner.cancels[0][0] == offer.job
    assert here.plane.flows.host is not None
    await here.plane.flows.host.find(spec.task)


async def test_a_waiting_task_is_cancelled_by_its_id(here: Place) -> None:
    async with here.client(Scope.HOST) as client:
        made = await call(client, "run_command", command="make", runner="away", wait=0)
        assert "'away'" in made.structured_content["waiting"]
        cancelled = await call(client, "task_cancel", task_id=made.structured_content["task_id"])
        again = await call(client, "task_cancel", task_id=made.structured_content["task_id"])
    assert (cancelled.is_error, cancelled.structured_content["status"]) == (False, "failed")
    assert again.is_error


async def test_long_output_is_shown_in_pieces(here: Place) -> None:
    text = "x" * 70_000
    async with here.client(Scope.HOST) as client:
        calling = asyncio.create_task(call(client, "run_command", command="make"))
        offer, _ = await here.taken()
        await here.end(offer, text)
        first = (await calling).structured_content
        rest = await call(client, "task_result", task_id=first["task_id"], offset=len(first["stdout"]))
    assert first["omitted"] == len(text) - len(first["stdout"]) > 0
    assert str(len(first["stdout"])) in first["hint"]
    assert first["stdout"] + rest.structured_content["stdout"] == text


async def test_a_task_of_somebody_else_is_unknown(here: Place) -> None:
    async with here.client(Scope.HOST) as client, here.client(Scope.HOST, owner="stranger") as stranger:
        made = await call(client, "run_command", command="make", wait=0)
        for tool in ("task_result", "task_cancel"):
            refused = await call(stranger, tool, task_id=made.structured_content["task_id"])
            assert refused.is_error
            assert "There is no host task" in refused.content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        ("run_command", {}, "command"),
        ("run_command", {"command": " "}, "command"),
        ("run_command", {"command": "a", "timeout": 0}, "timeout"),
        ("run_command", {"command": "a", "runner": "a b"}, "runner"),
        ("file_read", {"path": ""}, "path"),
        ("ask_claude", {"prompt": ""}, "prompt"),
        ("task_result", {"task_id": "a", "wait": 601}, "wait"),
    ],
)
async def test_a_wrong_argument_is_refused_by_its_name(
    here: Place, tool: str, arguments: dict[str, Any], named: str
) -> None:
    async with here.client(Scope.HOST) as client:
        refused = await call(client, tool, **arguments)
    assert refused.is_error
    assert named in refused.content[0].text  # type: ignore[union-attr]
