"""`clawplane mcp` as an agent starts it: a process whose standard output carries the protocol and nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import CallToolResult, ImageContent, TextContent

SCRIPTED = str(Path(__file__).parents[1] / "api" / "mcp")
if SCRIPTED not in sys.path:
    sys.path.insert(0, SCRIPTED)

from scripted import KEY, PNG, Endpoint, endpoint  # noqa: E402 - found through the line above


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with endpoint(tmp_path) as opened:
        yield opened


def started(url: str, key: str = KEY) -> StdioServerParameters:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAWPLANE_", "XDG_"))}
    environment = kept | {"CLAWPLANE_URL": url, "CLAWPLANE_API_KEY": key}
    return StdioServerParameters(command=sys.executable, args=["-m", "clawplane", "mcp"], env=environment)


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_the_tools_of_the_control_plane_are_there_in_every_version(here: Endpoint, mode: str) -> None:
    async with asyncio.timeout(60), Client(started(here.url), mode=mode) as near, here.client(mode) as far:
        assert (await near.list_tools()).tools == (await far.list_tools()).tools
        result = await near.call_tool("execute_python", {"code": "1+1"})
    assert isinstance(result, CallToolResult)
    assert result.structured_content["results"][0]["texts"] == {"text/plain": "2"}


async def test_images_errors_resources_and_instructions_pass_through(here: Endpoint) -> None:
    here.sessions.files["plot.png"] = PNG
    async with asyncio.timeout(60), Client(started(here.url), mode="auto") as client:
        plot = await client.call_tool("execute_python", {"code": "plot"})
        wrong = await client.call_tool("execute_python", {"code": "1", "timeout": 0})
        resource = await client.read_resource("clawplane://sessions/s1/files/plot.png")
        assert "session_id" in (client.instructions or "")
    assert isinstance(plot, CallToolResult)
    assert isinstance(wrong, CallToolResult)
    assert any(isinstance(block, ImageContent) for block in plot.content)
    assert "timeout" in wrong.structured_content["error"]
    assert resource.contents


async def test_progress_and_cancellation_pass_through(here: Endpoint) -> None:
    heard = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        if message == "one\ntwo\n":
            heard.set()

    async with asyncio.timeout(60), Client(started(here.url)) as client:
        waiting = asyncio.create_task(client.call_tool("execute_python", {"code": "wait"}, progress_callback=hear))
        await heard.wait()
        waiting.cancel()
        await here.sessions.interrupted.wait()


async def test_a_control_plane_that_is_away_is_named_in_the_answer() -> None:
    async with asyncio.timeout(60), Client(started("http://127.0.0.1:1"), mode="legacy") as client:
        result = await client.call_tool("execute_python", {"code": "1+1"})
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert "http://127.0.0.1:1" in result.content[0].text
    assert "clawplane up" in result.content[0].text


def test_standard_output_stays_empty_until_the_agent_asks() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAWPLANE_", "XDG_"))}
    environment = kept | {"CLAWPLANE_URL": "http://127.0.0.1:1", "CLAWPLANE_API_KEY": KEY}
    command = [sys.executable, "-m", "clawplane", "mcp"]
    ended = subprocess.run(command, env=environment, input=b"", capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"")
    assert b"Serving nonetheless" in ended.stderr
