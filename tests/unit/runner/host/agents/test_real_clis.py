"""The real CLIs, where scripts/agent_clis.sh has installed them, against a provider that is played on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.clock import SystemClock
from clawplane.runner.host.agents.events import Cost, Final, Started, Text, ToolResult, ToolUse
from clawplane.runner.host.agents.turn import ToolAnswer, ToolAsk
from clawplane.runner.host.stopping import Stop

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
INSTALLED = Path(os.environ.get("CLAWPLANE_AGENT_CLIS") or CACHE / "clawplane" / "agent-clis") / "node_modules" / ".bin"
ALL = pytest.mark.parametrize("cli", ["claude", "codex", "gemini"])
API = "11111111-2222-4333-8444-555555555555"


def sse(*events: tuple[str | None, dict[str, Any]]) -> bytes:
    return b"".join(
        (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"
        for name, data in events
    )


def messages(text: str, tool: bool) -> bytes:
    """Answer in the Messages API: a text, or the wish to use a tool."""
    head = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    block: dict[str, Any] = {"type": "text", "text": ""}
    delta: dict[str, Any] = {"type": "text_delta", "text": text}
    if tool:
        block = {"type": "tool_use", "id": "toolu_1", "name": "Write", "input": {}}
        wish = json.dumps({"file_path": text, "content": "made by a tool"})
        delta = {"type": "input_json_delta", "partial_json": wish}
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**head, "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use" if tool else "end_turn"},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]
    return sse(*((each["type"], each) for each in said))


def responses(text: str) -> bytes:
    """Answer in the Responses API."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}
    usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    return sse(
        ("response.created", {"type": "response.created", "response": {"id": "r"}}),
        ("response.output_item.done", {"type": "response.output_item.done", "output_index": 0, "item": item}),
        ("response.completed", {"type": "response.completed", "response": {"id": "r", "usage": usage}}),
    )


def generated(text: str) -> bytes:
    """Answer in the Gemini API."""
    content = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8}
    candidate = {"content": content, "finishReason": "STOP", "index": 0}
    return sse((None, {"candidates": [candidate], "usageMetadata": usage}))


class Provider:
    """Answers with the words `word-...` that it has heard in the conversation; some prompts make it do otherwise."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.over = threading.Event()
        self.hanging = threading.Event()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def do_HEAD(self) -> None:
                self.answer(b"")

            def do_GET(self) -> None:
                self.answer(b"{}")

            def do_POST(self) -> None:
                provider.post(self, self.rfile.read(int(self.headers["content-length"])).decode())

            def answer(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]  # CLIs are killed in the middle
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def post(self, request: Any, body: str) -> None:
        words = list(dict.fromkeys(re.findall(r"word-\w+", body)))
        last = words[-1] if words else ""
        if last == "word-hang":
            self.hanging.set()
            self.over.wait(60)
            request.close_connection = True
            return
        if last == "word-fail":
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": "the provider refuses"}}
            request.answer(json.dumps(error).encode(), status=400)
            return
        text = "heard " + " ".join(words)
        if request.path.startswith("/v1/messages"):
            tool = last == "word-tool" and "tool_result" not in body and '"name":"Write"' in body.replace(": ", ":")
            request.answer(messages(str(self.file) if tool else text, tool), "text/event-stream")
        elif request.path.endswith("/responses"):
            request.answer(responses(text), "text/event-stream")
        elif "streamGenerateContent" in request.path:
            request.answer(generated(text), "text/event-stream")
        elif "generateContent" in request.path:
            request.answer(generated("a title").removeprefix(b"data: "))
        else:
            request.answer(b"{}")


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(tmp_path / "home" / "made.txt")
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.over.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def real(runner, provider: Provider) -> Any:
    """A runner with the real CLIs, each told where its provider is."""
    node = shutil.which("node")
    missing = [name for name in ("claude", "codex", "gemini") if not (INSTALLED / name).exists()]
    if missing or node is None:
        pytest.skip(f"{', '.join(missing) or 'node'} not found in {INSTALLED}: run scripts/agent_clis.sh")
    for name in ("claude", "codex", "gemini"):
        (runner.bin / name).unlink()
        (runner.bin / name).symlink_to((INSTALLED / name).resolve())
    (runner.home / ".codex").mkdir()
    (runner.home / ".codex" / "config.toml").write_text(
        f'model_provider = "loop"\nmodel = "gpt-5"\n[model_providers.loop]\nname = "loop"\nwire_api = "responses"\n'
        f'base_url = "{provider.url}/v1"\nenv_key = "LOOP_KEY"\nrequest_max_retries = 0\nstream_max_retries = 0\n'
    )
    (runner.home / ".gemini").mkdir()
    (runner.home / ".gemini" / "settings.json").write_text(
        json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}, "general": {"disableAutoUpdate": True}})
    )
    runner.env |= {
        "PATH": f"{runner.bin}:{Path(node).parent}:/usr/bin:/bin",
        "ANTHROPIC_BASE_URL": provider.url,
        "ANTHROPIC_API_KEY": "sk-of-the-test",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "LOOP_KEY": "key-of-the-test",
        "GOOGLE_GEMINI_BASE_URL": provider.url,
        "GEMINI_API_KEY": "key-of-the-test",
        "GEMINI_TELEMETRY_ENABLED": "false",
    }
    runner.clock = SystemClock()
    return runner


@ALL
async def test_a_conversation_is_begun_and_resumed_after_the_runner_was_started_anew(real, cli: str) -> None:
    first = await real.ask(cli, "--word-one\n")
    assert (first.exit_code, first.error, first.stdout) == (0, None, "heard word-one"), first
    session = first.metadata["sessionId"]
    assert session == API or cli == "codex"
    assert [type(event) for event in real.told if type(event).__name__ != "Notice"] == [Started, Text, Cost, Final]
    assert real.bound[0] == session
    real.start()
    second = await real.ask(cli, "word-two", resume_latest=True)
    assert (second.exit_code, second.stdout) == (0, "heard word-one word-two"), second
    assert second.metadata["sessionId"] == session
    other = await real.ask(cli, "word-three", session="another chat", resume_latest=True)
    assert (other.exit_code, other.stdout) == (0, "heard word-three"), other


@ALL
async def test_a_provider_that_refuses_is_a_failure_that_says_why_and_the_conversation_goes_on(real, cli: str) -> None:
    failed = await real.ask(cli, "word-fail")
    assert failed.exit_code > 0, failed
    assert "the provider refuses" in failed.stdout + failed.stderr
    report = await real.ask(cli, "word-two")
    assert (report.exit_code, report.stdout.split()[-1]) == (0, "word-two"), report


@ALL
async def test_a_run_out_of_time_ends_and_its_conversation_goes_on(real, cli: str) -> None:
    late = await real.ask(cli, "word-hang", within=10.0 if cli == "gemini" else 5.0)
    assert (late.exit_code, late.error) == (-1, "Timeout"), late
    report = await real.ask(cli, "word-two")
    assert (report.exit_code, report.stdout.split()[-1]) == (0, "word-two"), report
    assert report.metadata["sessionId"] == late.metadata["sessionId"]


@ALL
async def test_a_cancelled_run_ends_while_the_provider_still_thinks(real, provider: Provider, cli: str) -> None:
    stop = Stop()
    turn = asyncio.ensure_future(real.ask(cli, "word-hang", stop=stop))
    assert await asyncio.to_thread(provider.hanging.wait, 60)
    stop.cancel()
    report = await turn
    assert (report.exit_code, report.error) == (-1, "Cancelled"), report


@ALL
async def test_a_conversation_that_is_gone_is_begun_anew_and_the_answer_says_so(real, cli: str) -> None:
    report = await real.ask(cli, "word-one", session="a chat", provider="22222222-2222-4333-8444-555555555555")
    assert report.exit_code == 0, report
    assert report.stdout.startswith("[The earlier conversation could not be resumed.")
    assert report.stdout.endswith("heard word-one")


@pytest.mark.parametrize("allowed", [True, False])
async def test_claude_waits_for_a_person_before_it_uses_a_tool(real, provider: Provider, allowed: bool) -> None:
    asked: list[ToolAsk] = []

    async def ask(question: ToolAsk) -> ToolAnswer:
        asked.append(question)
        assert not provider.file.exists()
        return ToolAnswer(allowed=allowed, reason="said a person")

    report = await real.ask("claude", "word-tool", approval="tools", ask=ask)
    assert (report.exit_code, report.stdout) == (0, "heard word-tool"), report
    assert [question.tool for question in asked] == ["Write"]
    assert json.loads(asked[0].detail)["file_path"] == str(provider.file)
    assert provider.file.exists() is allowed
    (used,) = (event for event in real.told if isinstance(event, ToolUse))
    (result,) = (event for event in real.told if isinstance(event, ToolResult))
    assert (used.tool, result.ok) == ("Write", allowed)
    assert allowed or "said a person" in result.detail


async def test_claude_stops_at_a_budget(real) -> None:
    report = await real.ask("claude", "word-one", budget_usd=0.000001)
    assert (report.exit_code, report.error) == (1, "SDK error_max_budget_usd"), report
