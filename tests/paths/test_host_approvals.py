"""A person is asked through a task's callbacks and answers by link: a real server, runner, webhook, chat and agent."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

TESTS = Path(__file__).parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from receiver import Heard, Receiver, Say, in_turn, receiver  # noqa: E402 - found through the lines above

SECRET = "the-secret-of-webhooks"
STUB = TESTS / "unit" / "runner" / "host" / "agents" / "stubs" / "claude.py"


@pytest.fixture
async def outside() -> AsyncIterator[Receiver]:
    """Play the webhook and the chat."""
    async with receiver(in_turn(Say())) as played:
        yield played


@pytest.fixture
def around(outside: Receiver, tmp_path: Path) -> dict[str, str]:
    """Return the environment of server and runners, with a stub of Claude that wants to use one tool."""
    calls, home, programs = (tmp_path / name for name in ("calls", "home", "bin"))
    for directory in (calls, home, programs):
        directory.mkdir()
    program = programs / "claude"
    program.write_text(f"#!{sys.executable} -IS\n{STUB.read_text(encoding='utf-8')}", encoding="utf-8")
    program.chmod(0o755)
    return {
        "CALLBACK_API_BASE_URL": outside.url,
        "CALLBACK_BOT_TOKEN": "bot-token",
        "CLAWPLANE_WEBHOOK_PRIVATE": "1",
        "CLAWPLANE_WEBHOOK_SECRET": SECRET,
        "CLAUDE_PATH": str(program),
        "OPENCLAW_HOOKS_URL": f"{outside.url}/hooks",
        "OPENCLAW_HOOKS_TOKEN": "hooks-token",
        "STUB_CALLS": str(calls),
        "STUB_DO": "tool",
        "HOME": str(home),
    }


@pytest.fixture
def hosting(make_plane: Callable[..., Any], around: dict[str, str]) -> Any:
    """Return a running clawplane that does host tasks."""
    plane = make_plane()
    where = ("--port", str(plane.port), "--data", str(plane.data))
    plane.spawn("up", *where, "--host-tasks", until="Ready:", environment=plane.environment | around)
    return plane


async def submit(api: httpx.AsyncClient, **fields: Any) -> str:
    answer = await api.post("/v1/host/tasks", json=fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["task"]["id"])


async def result(api: httpx.AsyncClient, task: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/host/tasks/{task}/result", params={"wait": 60})
    found: dict[str, Any] = answer.json()["data"]["result"]
    return found


def genuine(heard: Heard) -> bool:
    signed = heard.headers["clawplane-timestamp"].encode() + b"." + heard.body
    wanted = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    return heard.headers["clawplane-signature"] == f"v1={wanted}"


def client(plane: Any, **more: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=plane.url, timeout=70, trust_env=False, **more)


async def test_a_webhook_asks_and_only_the_answer_that_is_posted_decides(hosting: Any, outside: Receiver) -> None:
    key = {"Authorization": f"Bearer {hosting.key}"}
    async with client(hosting, headers=key) as api, client(hosting) as person:
        asked = {"type": "command", "command": "echo $0 ran", "approval": True, "callback_url": f"{outside.url}/hook"}
        yes, no = await submit(api, **asked), await submit(api, **asked)
        notices = {heard.json["task"]["id"]: heard for heard in await outside.until(2)}
        assert all(map(genuine, notices.values()))
        links = {task: heard.json["answerUrl"] for task, heard in notices.items()}
        assert notices[yes].json["type"] == "task.approval-needed"
        assert notices[yes].json["question"]["text"] == "echo $0 ran"
        page = await person.get(links[yes], headers={"Accept": "text/html"})
        assert (page.status_code, "echo $0 ran" in page.text) == (200, True)
        explained = await api.get(f"/v1/host/tasks/{yes}/explain")
        assert explained.json()["data"]["code"] == "approval"  # looking has decided nothing
        assert (await person.post(links[yes], data={"answer": "yes"})).status_code == 200
        assert (await person.post(links[no], json={"answer": "no"})).status_code == 200
        assert (await result(api, yes))["stdout"].endswith("ran\n")
        refused = await result(api, no)
        assert (refused["exit_code"], refused["error"]) == (-1, "Refused by a person with the answer link.")
        assert (await person.post(links[no], json={"answer": "yes"})).status_code == 409
        ends = [heard.json for heard in await outside.until(4)][2:]
        assert {(end["type"], end["task"]["id"]) for end in ends} == {("task.completed", yes), ("task.failed", no)}
        told = (await api.get("/v1/host/events", params={"task": no})).json()["data"]["list"]
        about = [(event["type"], event["details"].get("about")) for event in told if "callback" in event["type"]]
        assert about.count(("callback.sent", "approval")) == 1


async def test_a_chat_asks_about_each_tool_of_claude_and_the_agent_hears_the_answer(
    hosting: Any, outside: Receiver
) -> None:
    key = {"Authorization": f"Bearer {hosting.key}"}
    async with client(hosting, headers=key) as api, client(hosting) as person:
        for number, (word, said) in enumerate(
            [("yes", "ran: allow"), ("no", "blocked 2: Refused by a person with the answer link.")]
        ):
            task = await submit(
                api, type="claude-cli", prompt="clean up", approval="tools", callback_channel=f"77{number}"
            )
            channel = f"/channels/77{number}/messages"
            (heard, *_) = await outside.until(1, lambda each, to=channel: each.target == to)
            message = heard.json["content"]
            assert heard.headers["authorization"] == "Bot bot-token"
            assert '{"command": "rm -r build"}' in message
            link = re.search(r"<(http[^>]+)>", message)
            assert link is not None
            assert (await person.post(link[1], data={"answer": word})).status_code == 200
            assert (await result(api, task))["stdout"] == said
        hooked = [json.loads(each.body) for each in outside.heard if each.target.startswith("/hooks")]
        assert not any("approvals/" in json.dumps(each) for each in hooked)  # an agent would read it there


async def test_an_agent_on_a_runner_that_polls_is_answered_as_well(
    make_plane: Callable[..., Any], around: dict[str, str], outside: Receiver, tmp_path: Path
) -> None:
    plane = make_plane()
    environment = plane.environment | around | {"WORKER_URL": plane.url, "WORKER_TOKEN": "worker-token-of-this-test"}
    where = ("--port", str(plane.port), "--data", str(plane.data))
    plane.spawn("serve", *where, until="listens on", environment=environment)
    plane.spawn("worker", "--data", str(tmp_path / "worker"), until="This runner polls", environment=environment)
    async with client(plane, headers={"Authorization": f"Bearer {plane.key}"}) as api, client(plane) as person:
        hook = f"{outside.url}/hook"
        task = await submit(api, type="claude-cli", prompt="clean up", approval="tools", callback_url=hook)
        (heard, *_) = await outside.until(1, lambda each: each.target == "/hook")
        assert heard.json["question"]["toolUse"]
        listed = (await api.get(f"/v1/host/tasks/{task}/tool-uses")).json()["data"]["list"]
        assert [use["id"] for use in listed] == [heard.json["question"]["toolUse"]]
        assert (await person.post(heard.json["answerUrl"], json={"answer": "yes"})).status_code == 200
        assert (await result(api, task))["stdout"] == "ran: allow"
