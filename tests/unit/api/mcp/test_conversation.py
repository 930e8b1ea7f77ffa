"""The official client talks to the endpoint, in the current protocol version and in earlier ones."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, ImageContent, ResourceLink, TextContent
from scripted import KEY, PNG, PUBLIC, Endpoint

from clawplane.api.mcp.progress import reporting
from clawplane.domain.sessions import ExecEvent

MODES = ["2026-07-28", "legacy", "auto"]
FIRST = ["execute_python", "execute_shell", "execute_node", "reset_repl"]


def text(result: CallToolResult) -> str:
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


async def call(client: Client, tool: str, /, **arguments: Any) -> CallToolResult:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


@pytest.mark.parametrize("mode", MODES)
async def test_every_version_lists_and_calls_the_tools(here: Endpoint, mode: str) -> None:
    async with here.client(mode) as client:
        tools = (await client.list_tools()).tools
        result = await call(client, "execute_python", code="1+1")
    assert [tool.name for tool in tools][:4] == FIRST
    assert not result.is_error
    assert result.structured_content["session_id"] == "s1"
    assert result.structured_content["error"] is None
    assert result.structured_content["results"] == [{"texts": {"text/plain": "2"}, "main": True}]


async def test_discovery_names_the_server_its_version_and_the_current_protocol(here: Endpoint) -> None:
    async with here.client("auto") as client:
        assert client.protocol_version == "2026-07-28"
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("clawplane", "1.2.3")
        assert "session_id" in (client.instructions or "")


async def test_the_handshake_ends_at_the_newest_of_its_versions(here: Endpoint) -> None:
    async with here.client("legacy") as client:
        assert client.protocol_version == "2025-11-25"


async def test_the_list_of_tools_is_the_same_each_time(here: Endpoint) -> None:
    async with here.client("2026-07-28") as one, here.client("2026-07-28") as other:
        assert (await one.list_tools()).model_dump() == (await other.list_tools()).model_dump()


async def test_schemas_say_what_is_required_and_how_long_code_may_run(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    python, shell = tools["execute_python"].input_schema, tools["execute_shell"].input_schema
    assert (python["required"], shell["required"]) == (["code"], ["command"])
    assert python["properties"]["timeout"]["maximum"] == 120
    assert python["properties"]["timeout"]["exclusiveMinimum"] == 0
    assert python["properties"]["timeout"]["default"] == 30
    output = tools["execute_node"].output_schema or {}
    assert set(output["required"]) == {"stdout", "stderr", "error", "session_id"}


async def test_annotations_tell_reading_from_destroying(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        hints = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
    assert [name for name, hint in hints.items() if hint is None] == []
    reads = {name for name, hint in hints.items() if hint is not None and hint.read_only_hint}
    assert reads == {"session_list", "session_state", "workspace_list", "workspace_read", "workspace_download"}
    open_ended = {name for name, hint in hints.items() if hint is not None and hint.open_world_hint}
    assert open_ended == {"execute_python", "execute_shell", "execute_node"}
    assert not any(hint.destructive_hint for name, hint in hints.items() if hint is not None and name in reads)


async def test_calls_with_one_session_id_stay_in_one_session(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        first = await call(client, "execute_python", code="1+1")
        await call(client, "execute_shell", command="ls", session_id=first.structured_content["session_id"])
        await call(client, "execute_node", code="1", session_id=first.structured_content["session_id"])
    assert list(here.sessions.sessions) == ["s1"]
    assert [request.tool for request in here.sessions.requests] == ["python", "shell", "node"]


async def test_the_text_is_the_structured_content_for_models_that_see_no_other(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        result = await call(client, "execute_shell", command="hello")
    assert '"stdout":"hello"' in text(result)
    assert result.structured_content["session"]["expires_at"] == 86_400_001


async def test_a_figure_comes_back_as_an_image_and_a_changed_file_as_a_link(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        result = await call(client, "execute_python", code="plot")
    image = next(block for block in result.content if isinstance(block, ImageContent))
    link = next(block for block in result.content if isinstance(block, ResourceLink))
    assert base64.b64decode(image.data) == PNG
    assert image.mime_type == "image/png"
    assert link.uri == "clawplane://sessions/s1/files/a%20b.png"
    assert result.structured_content["results"][0]["omitted"] == {"text/x-own": 1}
    assert image.data not in text(result)


async def test_what_only_claims_to_be_an_image_is_not_passed_on(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        result = await call(client, "execute_python", code="liar")
    assert not any(isinstance(block, ImageContent) for block in result.content)
    assert result.structured_content["results"][0]["omitted"] == {"image/png": 8}


@pytest.mark.parametrize("code", ["boom", "slow", "greedy"])
async def test_exception_timeout_and_memory_are_errors_in_the_common_form(here: Endpoint, code: str) -> None:
    async with here.client("2026-07-28") as client:
        result = await call(client, "execute_python", code=code)
    assert result.is_error
    assert {"stdout", "stderr", "error", "session_id"} <= set(result.structured_content)
    assert result.structured_content["error"]


async def test_a_traceback_is_told_once(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        result = await call(client, "execute_python", code="boom")
    assert result.structured_content["error_detail"] == {
        "name": "ZeroDivisionError",
        "value": "division by zero",
        "traceback": [],
    }
    assert text(result).count("Traceback") == 1


async def test_a_spilled_output_is_linked(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        result = await call(client, "execute_python", code="much")
    assert [block.name for block in result.content if isinstance(block, ResourceLink)] == [".o/1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "code: it is missing"),
        ({"code": 5}, "code: 5 is no string"),
        ({"code": None}, "code: it is missing"),
        ({"code": "a\0b"}, "code: it holds a NUL character at position 1"),
        ({"code": "1+1", "timeout": 0}, "timeout: 0 is out of range"),
        ({"code": "1+1", "timeout": -1}, "timeout: -1 is out of range"),
        ({"code": "1+1", "timeout": 121}, "timeout: 121 is out of range"),
        ({"code": "1+1", "timeout": "30"}, "timeout: '30' is no number"),
        ({"code": "1+1", "timeout": None}, "timeout: null is no number"),
        ({"code": "1+1", "timeout": True}, "timeout: true is no number"),
        ({"code": "1+1", "language": "python"}, "language: this tool takes no such argument"),
        ({"code": "1+1", "session_id": "nobody"}, "session_id: there is no session"),
    ],
)
async def test_a_wrong_argument_is_named_and_nothing_is_executed(
    here: Endpoint, arguments: dict[str, Any], said: str
) -> None:
    async with here.client("2026-07-28") as client:
        result = await call(client, "execute_python", **arguments)
    assert result.is_error
    assert said in result.structured_content["error"]
    assert result.structured_content["stdout"] == ""
    assert here.sessions.requests == []
    assert here.sessions.sessions == {}


async def test_reset_answers_as_the_contract_says(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        result = await call(client, "reset_repl")
    assert result.structured_content["stdout"] == "Python REPL reset.\n"
    assert result.structured_content["session_id"] == "s1"


@pytest.mark.parametrize("mode", MODES)
async def test_progress_carries_the_tail_of_the_output_before_the_end(here: Endpoint, mode: str) -> None:
    heard: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message)
        here.sessions.release.set()

    async with here.client(mode) as client, asyncio.timeout(30):
        result = await client.call_tool("execute_python", {"code": "wait"}, progress_callback=hear)
    assert isinstance(result, CallToolResult)
    assert heard == ["one\ntwo\n"]
    assert result.structured_content["stdout"] == "one\ntwo\n"


async def test_progress_says_what_is_waited_for_before_there_is_output() -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def report(seconds: float, message: str) -> None:
        heard.put_nowait(message)

    async with reporting(report, interval=0.0) as tail, asyncio.timeout(30):
        tail.hear(ExecEvent(type="ping", text="Installing."))
        assert await heard.get() == "Installing."
        tail.hear(ExecEvent(type="ping", text="Installing."))
        tail.hear(ExecEvent(type="ping"))
        tail.hear(ExecEvent(type="stdout", text="one\n"))
        assert await heard.get() == "one\n"


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_is_taken_back_interrupts_the_code(here: Endpoint, mode: str) -> None:
    async with here.client(mode) as client, asyncio.timeout(30):
        waiting = asyncio.create_task(client.call_tool("execute_python", {"code": "wait"}))
        await here.sessions.waiting.wait()
        waiting.cancel()
        await here.sessions.interrupted.wait()
        assert (await call(client, "execute_python", code="1+1")).structured_content["error"] is None


async def test_a_table_is_written_changed_read_and_deleted(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        made = await call(client, "workspace_write", path="data/t.csv", content="a,b\n1,2\n")
        session = made.structured_content["session_id"]
        edited = await call(client, "workspace_edit", path="data/t.csv", old="1", new="7", session_id=session)
        read = await call(client, "workspace_read", path="data/t.csv", session_id=session)
        listed = await call(client, "workspace_list", session_id=session)
        away = await call(client, "workspace_delete", path="data/t.csv", session_id=session)
    assert edited.structured_content["replaced"] == 1
    assert read.structured_content["content"] == "a,b\n7,2\n"
    assert read.structured_content["next_offset"] is None
    assert listed.structured_content["files"][0]["path"] == "data/t.csv"
    assert not away.is_error
    assert here.sessions.files == {}


async def test_a_long_text_is_read_in_pieces_that_split_no_character(here: Endpoint) -> None:
    here.sessions.files["u.txt"] = "aé€😀z".encode()
    pieces = []
    async with here.client("2026-07-28") as client:
        offset: int | None = 0
        while offset is not None:
            read = await call(client, "workspace_read", path="u.txt", offset=offset, limit=4)
            pieces.append(read.structured_content["content"])
            offset = read.structured_content["next_offset"]
    assert "".join(pieces) == "aé€😀z"


async def test_a_picture_in_the_workspace_is_read_as_an_image(here: Endpoint) -> None:
    here.sessions.files["plot.png"] = PNG
    async with here.client("2026-07-28") as client:
        read = await call(client, "workspace_read", path="plot.png")
    image = next(block for block in read.content if isinstance(block, ImageContent))
    assert base64.b64decode(image.data) == PNG


async def test_bytes_travel_as_base64(here: Endpoint) -> None:
    content = base64.b64encode(b"\xff\x00").decode()
    async with here.client("2026-07-28") as client:
        await call(client, "workspace_write", path="b.bin", content=content, encoding="base64")
        text_read = await call(client, "workspace_read", path="b.bin")
        read = await call(client, "workspace_read", path="b.bin", encoding="base64")
    assert here.sessions.files["b.bin"] == b"\xff\x00"
    assert text_read.is_error
    assert "encoding base64" in text(text_read)
    assert read.structured_content["content"] == content


async def test_a_link_is_read_as_a_resource(here: Endpoint) -> None:
    here.sessions.files["a b.txt"] = b"inside"
    async with here.client("2026-07-28") as client:
        await call(client, "execute_python", code="1+1")
        read = await client.read_resource("clawplane://sessions/s1/files/a%20b.txt")
        templates = await client.list_resource_templates()
    assert [getattr(content, "text", None) for content in read.contents] == ["inside"]  # type: ignore[union-attr]
    assert templates.resource_templates[0].uri_template == "clawplane://sessions/{session}/files/{+path}"


async def test_a_download_is_an_address_as_the_caller_reaches_this_server(here: Endpoint) -> None:
    here.sessions.files["a b.txt"] = b"inside"
    async with here.client("2026-07-28") as client:
        one = await call(client, "workspace_download", path="a b.txt")
        whole = await call(client, "workspace_download")
    assert one.structured_content["url"].startswith(f"{PUBLIC}/v1/sessions/s1/")
    assert "a%20b.txt" in one.structured_content["url"]
    assert whole.structured_content["url"].startswith(f"{PUBLIC}/v1/sessions/s2/")


async def test_sessions_are_made_described_copied_undone_and_ended(here: Endpoint) -> None:
    async with here.client("2026-07-28") as client:
        made = await call(client, "session_create", name="tries", profile="bare")
        described = await call(client, "session_state", session_id="s1")
        copied = await call(client, "session_branch", session_id="s1")
        undone = await call(client, "session_rollback", session_id="s1", execs=2)
        listed = await call(client, "session_list")
        await call(client, "session_delete", session_id="s1")
    assert (made.structured_content["name"], made.structured_content["profile"]) == ("tries", "bare")
    assert described.structured_content["memory"] == 4096
    assert copied.structured_content["branch_of"] == "s1"
    assert undone.structured_content["exec_count"] == 3
    assert [item["session_id"] for item in listed.structured_content["sessions"]] == ["s1", "s2"]
    assert list(here.sessions.sessions) == ["s2"]


@pytest.mark.parametrize("header", ["bearer", "api-key", "X-API-Key"])
async def test_each_way_to_send_the_key_suffices(here: Endpoint, header: str) -> None:
    async with here.client("2026-07-28", key=KEY, header=header) as client:
        assert (await client.list_tools()).tools
