"""An agent that speaks MCP solves a data task, with the official client, the real server, runner and sandbox."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, ResourceLink, TextResourceContents

CSV = "city,month,rain\nOslo,1,49\nOslo,2,36\nBergen,1,190\nBergen,2,152\nBergen,3,170\n"
WAYS = ["current", "earlier", "stdio"]


@asynccontextmanager
async def over_http(plane: Any, mode: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {plane.key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=120, trust_env=False) as http,
        Client(streamable_http_client(f"{plane.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def connected(plane: Any, way: str) -> AbstractAsyncContextManager[Client]:
    """Connect as the current protocol does, as earlier ones do, or through `clawplane mcp`."""
    if way == "stdio":
        command = str(Path(sys.executable).with_name("clawplane"))
        return Client(StdioServerParameters(command=command, args=["mcp"], env=plane.environment))
    return over_http(plane, "2026-07-28" if way == "current" else "legacy")


async def call(client: Client, tool: str, /, **arguments: Any) -> CallToolResult:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


@pytest.mark.parametrize("way", WAYS)
async def test_an_agent_loads_a_table_analyses_it_plots_it_and_reads_the_plot(plane: Any, way: str) -> None:
    async with connected(plane, way) as client:
        made = await call(client, "workspace_write", path="data/rain.csv", content=CSV)
        session = made.structured_content["session_id"]
        loaded = await call(
            client,
            "execute_python",
            code="import pandas as pd\nframe = pd.read_csv('data/rain.csv')\nframe.shape",
            session_id=session,
            timeout=100,
        )
        means = await call(
            client,
            "execute_python",
            code="means = frame.groupby('city').rain.mean()\nprint(means.round(1).to_dict())",
            session_id=session,
        )
        plotted = await call(
            client,
            "execute_python",
            code="import matplotlib.pyplot as plt\nmeans.plot.bar()\nplt.savefig('rain.png')\nplt.show()",
            session_id=session,
            timeout=60,
        )
        seen = await call(client, "workspace_read", path="rain.png", session_id=session)
        checked = await call(
            client, "execute_shell", command="head -c 8 rain.png | base64; wc -l < data/rain.csv", session_id=session
        )
        counted = await call(
            client,
            "execute_node",
            code="console.log(require('fs').readFileSync('data/rain.csv', 'utf8').trim().split('\\n').length)",
            session_id=session,
        )
        linked = await client.read_resource(f"clawplane://sessions/{session}/files/data/rain.csv")
        ended = await call(client, "session_delete", session_id=session)
        gone = await call(client, "execute_python", code="frame", session_id=session)
    assert loaded.structured_content["results"][0]["texts"]["text/plain"] == "(5, 3)"
    assert means.structured_content["stdout"] == "{'Bergen': 170.7, 'Oslo': 42.5}\n"
    figure = next(block for block in plotted.content if isinstance(block, ImageContent))
    assert base64.b64decode(figure.data).startswith(b"\x89PNG")
    assert "rain.png" in [block.name for block in plotted.content if isinstance(block, ResourceLink)]
    picture = next(block for block in seen.content if isinstance(block, ImageContent))
    assert base64.b64decode(picture.data).startswith(b"\x89PNG")
    assert checked.structured_content["stdout"] == "iVBORw0KGgo=\n6\n"
    assert counted.structured_content["stdout"] == "6\n"
    assert isinstance(linked.contents[0], TextResourceContents)  # type: ignore[union-attr]
    assert linked.contents[0].text == CSV  # type: ignore[union-attr]
    assert not ended.is_error
    assert gone.is_error
    assert "ended" in gone.structured_content["error"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_that_is_taken_back_stops_the_code_and_keeps_the_variables(plane: Any, way: str) -> None:
    begun = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        if message == "begun\n":
            begun.set()

    code = "x += 1\nprint('begun', flush=True)\nimport time\ntime.sleep(60)\nx = 'slept'"
    async with asyncio.timeout(60), connected(plane, way) as client:
        session = (await call(client, "session_create", profile="bare")).structured_content["session_id"]
        await call(client, "execute_python", code="x = 1", session_id=session)
        arguments = {"code": code, "session_id": session, "timeout": 100}
        waiting = asyncio.create_task(client.call_tool("execute_python", arguments, progress_callback=hear))
        await begun.wait()
        since = time.monotonic()
        waiting.cancel()
        after = await call(client, "execute_python", code="x", session_id=session)
        assert time.monotonic() - since < 10
        await call(client, "session_delete", session_id=session)
    assert after.structured_content["results"][0]["texts"]["text/plain"] == "2"


async def test_what_code_does_wrong_is_told_in_the_same_form(plane: Any) -> None:
    async with over_http(plane, "2026-07-28") as client:
        session = (await call(client, "session_create", profile="bare")).structured_content["session_id"]
        raised = await call(client, "execute_python", code="def f():\n    return 1 / 0\nf()", session_id=session)
        late = await call(
            client,
            "execute_python",
            code="print('so far', flush=True)\nimport time\ntime.sleep(30)",
            timeout=0.5,
            session_id=session,
        )
        failed = await call(client, "execute_shell", command="echo no >&2; exit 3", session_id=session)
        outside = await call(client, "workspace_read", path="../../etc/passwd", session_id=session)
        await call(client, "session_delete", session_id=session)
    assert [each.is_error for each in (raised, late, failed, outside)] == [True] * 4
    assert raised.structured_content["error"] == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in raised.structured_content["stderr"]
    assert late.structured_content["error"] == "Error: timeout exceeded"
    assert late.structured_content["stdout"] == "so far\n"
    assert (failed.structured_content["error"], failed.structured_content["stderr"]) == ("exit code 3", "no\n")


async def test_a_copy_goes_its_own_way_and_undo_brings_variables_back(plane: Any) -> None:
    async with over_http(plane, "2026-07-28") as client:
        session = (await call(client, "session_create", profile="bare")).structured_content["session_id"]
        await call(client, "execute_python", code="x = [1]", session_id=session)
        copy = (await call(client, "session_branch", session_id=session)).structured_content
        await call(client, "execute_python", code="x.append(2)", session_id=session)
        undone = await call(client, "session_rollback", session_id=session)
        mine = await call(client, "execute_python", code="print(x)", session_id=session)
        theirs = await call(client, "execute_python", code="x.append(3); print(x)", session_id=copy["session_id"])
        listed = (await call(client, "session_list")).structured_content["sessions"]
        for each in (session, copy["session_id"]):
            await call(client, "session_delete", session_id=each)
    assert copy["branch_of"] == session
    assert not undone.is_error
    assert mine.structured_content["stdout"] == "[1]\n"
    assert theirs.structured_content["stdout"] == "[1, 3]\n"
    assert {session, copy["session_id"]} <= {item["session_id"] for item in listed}


def test_the_command_line_and_an_agent_meet_in_one_session(plane: Any, tmp_path: Path) -> None:
    (tmp_path / "up.csv").write_text(CSV)
    session = plane.cli("session", "create", "shared", "--profile", "bare").stdout.strip()
    try:
        plane.cli("session", "upload", session, str(tmp_path / "up.csv"), "in/up.csv")
        lines = plane.cli("exec", "python", "x = open('in/up.csv').read()\nlen(x.splitlines())", "--session", session)
        assert lines.stdout == "6\n"
        failed = plane.cli("exec", "shell", "echo out; exit 4", "--session", session, check=False)
        assert (failed.returncode, failed.stdout, failed.stderr) == (1, "out\n", "exit code 4\n")
        spoken = plane.cli("repl", session, input_="def f():\n    return x[:4]\n\nf()\n!ls in\n%undo 2\n")
        assert "'city'" in spoken.stdout
        assert "up.csv" in spoken.stdout
        down = plane.cli("session", "download", session, "in/up.csv", "--output", "-")
        assert down.stdout == CSV
        cells = plane.json("exec", "python", "1", "--session", session)
        assert cells["execution_count"] > 0
        book = plane.cli("session", "notebook", session).stdout
        assert "%%bash" in book
    finally:
        plane.cli("session", "delete", session)
