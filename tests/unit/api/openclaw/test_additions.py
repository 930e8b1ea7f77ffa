"""What the wire offers beyond the old one: idempotency, lists, cancels, time and place, messages to chats, sessions."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from task_plane import TaskPlane, task_plane

from clawplane.api.openclaw.recent import claude_sessions, codex_sessions
from clawplane.api.openclaw.visits import TaskApiOptions
from clawplane.domain.callback_ports import CallbackRefused, CallbackUnset
from clawplane.domain.clock import ManualClock
from clawplane.domain.errors import InvalidArgument


async def test_the_same_key_makes_one_task_and_another_request_under_it_is_a_conflict(plane: TaskPlane) -> None:
    client = plane.client()
    key = {"Idempotency-Key": "k-1"}
    first = await client.post("/claude", {"prompt": "p"}, headers=key)
    again = await client.post("/claude", {"prompt": "p"}, headers=key)
    assert first.raw == again.raw
    other = await client.post("/claude", {"prompt": "q"}, headers=key)
    assert other.status == 409
    assert "k-1" in other.json["error"]
    assert (await client.post("/codex", {"prompt": "p"}, headers=key)).status == 409
    assert (await client.post("/claude", {"prompt": "p"}, headers={"Idempotency-Key": "a b"})).status == 400
    assert (await client.get("/tasks/stats")).json["queue"]["total"] == 1


async def test_tasks_are_listed_by_what_is_asked_and_page_by_page(plane: TaskPlane) -> None:
    client = plane.client()
    commands = [
        (await client.post("/tasks", {"command": str(n), "labels": {"n": str(n)}})).json["taskId"] for n in (1, 2)
    ]
    agent = (await client.post("/codex", {"prompt": "p", "sessionId": "s"})).json["taskId"]
    await client.get("/worker/poll?runnerId=mac")
    listed = (await client.get("/tasks")).json
    assert [task["id"] for task in listed["tasks"]] == [agent, commands[1], commands[0]]
    assert listed["next"] is None
    assert listed["tasks"][2]["labels"] == {"n": "1"}
    assert [task["id"] for task in (await client.get("/tasks?status=running")).json["tasks"]] == [commands[0]]
    assert [task["id"] for task in (await client.get("/tasks?type=codex-cli")).json["tasks"]] == [agent]
    assert [task["id"] for task in (await client.get("/tasks?sessionId=s")).json["tasks"]] == [agent]
    page = (await client.get("/tasks?limit=2")).json
    rest = (await client.get(f"/tasks?limit=2&before={page['next']}")).json
    assert [task["id"] for task in rest["tasks"]] == [commands[0]]
    assert (await client.get("/tasks?status=gone")).status == 400


async def test_what_waits_is_cancelled_at_once_and_what_has_ended_cannot_be(plane: TaskPlane) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    cancelled = await client.post(f"/tasks/{task}/cancel")
    assert cancelled.json == {"success": True, "taskId": task, "status": "failed"}
    assert (await client.get("/worker/poll?wait=1")).json is None
    assert (await client.post(f"/tasks/{task}/cancel")).status == 409
    assert (await client.get(f"/tasks/{task}")).json["exitCode"] == -1
    assert (await client.post("/tasks/unknown/cancel")).json == {"error": "Task not found"}


async def test_a_task_that_a_mere_poller_runs_ends_with_its_cancel(plane: TaskPlane) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    await client.get("/worker/poll")
    assert (await client.post(f"/tasks/{task}/cancel")).json["status"] == "failed"
    assert (await client.get(f"/tasks/{task}")).json["exitCode"] == -1


async def test_higher_priority_goes_first_and_delayed_tasks_wait(tmp_path: Path) -> None:
    clock = ManualClock()
    async with task_plane(tmp_path, clock=clock) as plane:
        client = plane.client()
        normal = (await client.post("/tasks", {"command": "a"})).json["taskId"]
        urgent = (await client.post("/tasks", {"command": "b", "priority": 5})).json["taskId"]
        later = (await client.post("/tasks", {"command": "c", "delay": 60_000})).json["taskId"]
        assert [(await client.get("/worker/poll")).json["id"] for _ in range(2)] == [urgent, normal]
        assert (await client.get(f"/tasks/{later}")).json["status"] == "pending"
        clock.advance(61)
        assert (await client.get("/worker/poll")).json["id"] == later


async def test_a_task_that_waits_for_a_yes_is_not_handed_out_before_it(plane: TaskPlane) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "x", "approval": True})).json["taskId"]
    assert (await client.get("/worker/poll?wait=1")).json is None
    await plane.house.host.approve(task, given=True, by="test")
    assert (await client.get("/worker/poll")).json["id"] == task


async def test_bot_tokens_reach_their_runner_and_lie_nowhere_in_clear(plane: TaskPlane) -> None:
    client = plane.client()
    secret = "bot-token-that-must-not-lie-in-clear"
    await client.post("/claude", {"prompt": "p", "callbackChannel": "c", "callbackBotToken": secret})
    assert (await client.get("/worker/poll")).json["callbackBotToken"] == secret
    for file in plane.house.options.database.parent.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file


async def test_paths_that_climb_are_refused_when_the_operator_says_so(tmp_path: Path) -> None:
    options = TaskApiOptions(strict_paths=True)
    async with task_plane(tmp_path, options=options) as plane:
        client = plane.client()
        bodies: list[tuple[str, dict[str, Any]]] = [
            ("/files/read", {}),
            ("/files/write", {"content": ""}),
            ("/files/edit", {"old_string": "", "new_string": ""}),
        ]
        for path, body in bodies:
            answer = await client.post(path, {"path": "/tmp/../etc/passwd", **body})
            assert (answer.status, answer.json) == (400, {"error": "Path contains disallowed traversal (..)"})
            assert (await client.post(path, {"path": "/tmp/a..b", **body})).status == 200


class Chat:
    """A notifier that plays what it was told."""

    def __init__(self, played: int | Exception) -> None:
        self.played = played
        self.heard: list[tuple[str, str]] = []

    async def notify(self, channel: str, message: str) -> int:
        self.heard.append((channel, message))
        if isinstance(self.played, Exception):
            raise self.played
        return self.played


@pytest.mark.parametrize(
    ("played", "status", "body"),
    [
        (204, 200, {"ok": True, "status": 204}),
        (CallbackUnset("CALLBACK_BOT_TOKEN not set"), 500, {"error": "CALLBACK_BOT_TOKEN not set"}),
        (CallbackRefused("Callback API 500: no"), 502, {"error": "Callback API 500: no"}),
        (InvalidArgument("channel: no"), 400, {"error": "channel: no"}),
    ],
)
async def test_messages_go_to_the_chat_untrimmed_and_its_answer_comes_back(
    tmp_path: Path, played: int | Exception, status: int, body: dict[str, Any]
) -> None:
    chat = Chat(played)
    async with task_plane(tmp_path, notifier=chat) as plane:
        answer = await plane.client().post("/notify", {"channel": " 42 ", "message": " hello "})
    assert (answer.status, answer.json) == (status, body)
    assert chat.heard == [("42", " hello ")]


UUID = "0b0e3a52-3f5c-4f0e-9d5a-2b9f1c8a7d61"


def written(path: Path, *lines: object, at: float = 1_780_000_000.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    os.utime(path, (at, at))
    return path


def said(content: object) -> dict[str, Any]:
    return {"message": {"role": "user", "content": content}}


def test_sessions_of_claude_are_listed_newest_first_with_their_topics(tmp_path: Path) -> None:
    written(tmp_path / "proj-a" / "one.jsonl", "{broken", {"message": {"role": "assistant"}}, said("  hi  "), at=100)
    blocks = [{"type": "image"}, {"type": "text", "text": "x" * 300}]
    written(tmp_path / "proj-b" / "two.jsonl", said([]), said(blocks), at=200)
    written(tmp_path / "proj-b" / "three.jsonl", "[" * 100_000, "5", at=300)
    (tmp_path / "proj-b" / "note.txt").write_text("no session")
    (tmp_path / "a-file").write_text("no project")
    listed = claude_sessions(tmp_path, 10)
    assert [(each["sessionId"], each["project"], each["topic"]) for each in listed] == [
        ("three", "proj-b", "(no topic)"),
        ("two", "proj-b", "x" * 150),
        ("one", "proj-a", "hi"),
    ]
    assert listed[2]["lastModified"] == "1970-01-01T00:01:40.000Z"
    assert [each["sizeKB"] for each in listed] == [98, 0, 0]
    assert len(claude_sessions(tmp_path, 1)) == 1


def test_sessions_of_codex_are_those_of_seven_days_with_topics_that_are_no_slash_commands(tmp_path: Path) -> None:
    today = datetime(2026, 3, 3, 12, tzinfo=UTC)

    def message(text: str) -> dict[str, Any]:
        return {"type": "event_msg", "payload": {"type": "user_message", "message": text}}

    written(
        tmp_path / "2026/03/03" / f"rollout-{UUID}.jsonl", message("/status"), message("@bot /new"), message("real")
    )
    written(tmp_path / "2026/02/25" / "bare.jsonl", {"type": "event_msg", "payload": 5}, said("as claude"), at=50)
    written(tmp_path / "2026/02/24" / "old.jsonl", message("too old"))
    assert [(each["sessionId"], each["topic"]) for each in codex_sessions(tmp_path, today, 10)] == [
        (UUID, "real"),
        ("bare", "as claude"),
    ]
    assert codex_sessions(tmp_path / "absent", today, 10) == []


@pytest.fixture
async def with_sessions(tmp_path: Path) -> AsyncIterator[TaskPlane]:
    written(tmp_path / "claude" / "p" / f"{UUID}.jsonl", said("topic"))
    now = datetime.now().astimezone()
    written(tmp_path / "codex" / now.strftime("%Y/%m/%d") / f"x-{UUID}.jsonl", said("topic"))
    options = TaskApiOptions(claude_root=tmp_path / "claude", codex_root=tmp_path / "codex")
    async with task_plane(tmp_path, options=options) as plane:
        yield plane


async def test_recent_sessions_are_told_with_all_their_texts(with_sessions: TaskPlane) -> None:
    client = with_sessions.client()
    told = {"sessionId": UUID, "lastModified": "2026-05-28T20:26:40.500Z", "sizeKB": 0, "topic": "topic"}
    assert (await client.get("/codex/recent?limit=99")).json == {"sessions": [told]}
    assert (await client.get("/claude/recent")).json == {"sessions": [told | {"project": "p"}]}
