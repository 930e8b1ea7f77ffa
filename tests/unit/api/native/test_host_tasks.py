"""Host tasks over our own API: submitted, watched, decided about; with a runner that is played over the real flows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from plane import Plane, ScriptedRunner, plane

from clawplane.domain.access import Scope
from clawplane.domain.asks import Nothing
from clawplane.domain.batches import INFO, Batch, LogLine
from clawplane.domain.host_tasks import FileWrite, HostSpec, TaskReport
from clawplane.domain.leases import Offer
from clawplane.domain.tool_uses import Decide, Decided, ToolUse, ToolUses
from clawplane.flows.host_tasks import TaskRequest
from clawplane.link.asking import Asking

TAKES = ("host", *(f"host@{group}" for group in ("command", "files", "claude", "codex", "gemini")))
TASKS = "/v1/host/tasks"


async def runner(here: Plane) -> ScriptedRunner:
    played = here.runner(capabilities=TAKES, slots={"host": 5})
    await played.connect()
    return played


async def submit(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await api.post(TASKS, json={"type": "command", "command": "make"} | fields)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()["data"]["task"]
    return found


async def data(answer: httpx.Response) -> Any:
    assert answer.status_code in (200, 201), answer.text
    return answer.json()["data"]


async def say(here: Plane, played: ScriptedRunner, offer: Offer, seq: int, *lines: tuple[str, str]) -> None:
    logs = tuple(LogLine(INFO, text, 1_000, source) for source, text in lines)  # type: ignore[arg-type]
    await here.flows.leases.ship(played.id, Batch(job=offer.job, fence=offer.fence, seq=seq, logs=logs))


async def end(played: ScriptedRunner, offer: Offer, stdout: str = "", code: int = 0) -> None:
    report = TaskReport(stdout=stdout, exit_code=code, error=None if code == 0 else f"Exit code {code}", duration=5)
    await played.end(offer, succeeded=code == 0, exit_code=code, result=msgspec.msgpack.encode(report))


@asynccontextmanager
async def opened(api: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[AsyncIterator[str]]:
    async with asyncio.timeout(20), api.stream("GET", path, headers=headers) as stream:
        assert stream.status_code == 200
        yield stream.aiter_lines()


async def until(lines: AsyncIterator[str], word: str) -> str:
    async for line in lines:
        if word in line:
            return line
    raise AssertionError(f"{word!r} never came")


async def test_a_task_carries_every_additive_field_to_its_runner(here: Plane, api: httpx.AsyncClient) -> None:
    played = await runner(here)
    task = await submit(
        api,
        timeout_ms=5_000,
        priority=3,
        on_loss="fail",
        target={"runner": "scripted"},
        cwd="/tmp",
        env={"A": "1"},
        labels={"team": "x"},
        callback_url="https://example.com/hook",
    )
    spec = msgspec.msgpack.decode((await played.take()).spec, type=HostSpec)
    assert (spec.task, spec.cwd, spec.env) == (task["id"], "/tmp", {"A": "1"})
    assert msgspec.to_builtins(spec.work) == {"type": "command", "command": "make", "timeout": 5_000}
    shown = await data(await api.get(f"{TASKS}/{task['id']}"))
    assert (shown["priority"], shown["on_loss"], shown["labels"]) == (3, "fail", {"team": "x"})
    assert (shown["target"]["runner"], shown["env"], shown["status"]) == ("scripted", ["A"], "running")
    assert shown["work"] == {"command": "make", "timeout": 5_000}


@pytest.mark.parametrize(
    ("fields", "work"),
    [
        ({"type": "file-write", "path": "a", "content": "b", "encoding": "base64"}, {"encoding": "base64"}),
        ({"type": "file-read", "path": "a", "encoding": "base64"}, {"encoding": "base64"}),
        ({"type": "file-edit", "path": "a", "old": "b", "new": "c", "everywhere": True}, {"replace_all": True}),
        ({"type": "claude-cli", "prompt": "p", "budget_usd": 1.5, "approval": "tools"}, {"approval": "tools"}),
        ({"type": "codex-cli", "prompt": "p", "model": "m", "session_id": "s"}, {"model": "m", "session_id": "s"}),
        ({"type": "gemini-cli", "prompt": "p", "session_id": "s"}, {"resume_latest": True}),
    ],
)
async def test_every_type_of_work_is_taken(
    here: Plane, api: httpx.AsyncClient, fields: dict[str, Any], work: dict[str, Any]
) -> None:
    answer = await api.post(TASKS, json=fields)
    assert answer.status_code == 201, answer.text
    task = answer.json()["data"]["task"]
    assert task["type"] == fields["type"]
    shown = await data(await api.get(f"{TASKS}/{task['id']}"))
    assert work.items() <= shown["work"].items()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": "dance"}, "type"),
        ({"command": " "}, "command"),
        ({"command": 5}, "command"),
        ({"timeout_ms": 5}, "timeout_ms"),
        ({"priority": 101}, "priority"),
        ({"delay_ms": -1}, "delay_ms"),
        ({"on_loss": "cry"}, "on_loss"),
        ({"target": {"runner": "a b"}}, "target.runner"),
        ({"target": {"runner": "a", "labels": {"b": "c"}}}, "target"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"env": {"1": "c"}}, "env"),
        ({"cwd": ""}, "cwd"),
        ({"callback_url": "ftp://example.com"}, "callback_url"),
        ({"idempotency_key": "a b"}, "idempotency_key"),
        ({"approval": "tools"}, "approval"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(api: httpx.AsyncClient, fields: dict[str, Any], named: str) -> None:
    answer = await api.post(TASKS, json={"type": "command", "command": "make"} | fields)
    assert answer.status_code == 422
    assert named in answer.json()["message"]


async def test_the_same_key_makes_one_task_and_another_request_with_it_conflicts(api: httpx.AsyncClient) -> None:
    body = {"type": "command", "command": "make"}
    first = await api.post(TASKS, json=body, headers={"Idempotency-Key": "k"})
    again = await api.post(TASKS, json=body | {"idempotency_key": "k"})
    other = await api.post(TASKS, json=body | {"command": "rm"}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert again.json()["data"]["replayed"] is True
    assert again.json()["data"]["task"]["id"] == first.json()["data"]["task"]["id"]


async def test_the_output_is_streamed_while_the_task_runs_and_ends_with_it(here: Plane, api: httpx.AsyncClient) -> None:
    played = await runner(here)
    task = await submit(api)
    async with opened(api, f"{TASKS}/{task['id']}/log?follow=true") as lines:
        offer = await played.take()
        await say(here, played, offer, 1, ("stdout", "one"), ("stderr", "two"))
        first = json.loads(await until(lines, "one"))
        second = json.loads(await until(lines, "two"))
        await end(played, offer, "one\n")
        assert [line async for line in lines if line] == []
    assert (first["source"], second["source"]) == ("stdout", "stderr")
    async with opened(api, f"{TASKS}/{task['id']}/log?follow=true", accept="text/event-stream") as lines:
        told = [line async for line in lines if line]
    assert [line for line in told if line.startswith("event")] == ["event: end"]
    async with opened(
        api, f"{TASKS}/{task['id']}/log", **{"accept": "text/event-stream", "last-event-id": str(first["seq"])}
    ) as lines:
        assert "one" not in "".join([line async for line in lines])


async def test_following_a_task_that_is_cancelled_while_it_waits_ends_at_once(api: httpx.AsyncClient) -> None:
    task = await submit(api)
    async with opened(api, f"{TASKS}/{task['id']}/log?follow=true") as lines:
        cancelled = await data(await api.post(f"{TASKS}/{task['id']}/cancel"))
        async with asyncio.timeout(5):
            assert [line async for line in lines if line] == []
    assert (cancelled["status"], cancelled["reason"]) == ("failed", "cancelled")
    assert (await api.post(f"{TASKS}/{task['id']}/cancel")).status_code == 409


async def test_a_result_is_waited_for_and_can_be_read_again_and_again(here: Plane, api: httpx.AsyncClient) -> None:
    played = await runner(here)
    task = await submit(api)
    assert (await data(await api.get(f"{TASKS}/{task['id']}/result")))["result"] is None
    waiting = asyncio.create_task(api.get(f"{TASKS}/{task['id']}/result?wait=20"))
    await end(played, await played.take(), "done\n", 3)
    for _ in range(2):
        found = await data(await waiting if not waiting.done() else await api.get(f"{TASKS}/{task['id']}/result"))
        assert found["result"]["stdout"] == "done\n"
        assert (found["result"]["exit_code"], found["task"]["status"]) == (3, "failed")


async def test_halves_of_characters_come_through(here: Plane, api: httpx.AsyncClient) -> None:
    assert here.flows.host is not None
    half = TaskRequest(work=FileWrite(path="a", content="\ud83d"))
    made = await here.flows.host.submit(half, owner="owner")
    shown = await data(await api.get(f"{TASKS}/{made.task.id}"))
    assert shown["work"]["content"] == "\ud83d"


async def test_lists_are_filtered_and_go_on_behind_a_page(here: Plane, api: httpx.AsyncClient) -> None:
    made = [(await submit(api, command=f"c{number}"))["id"] for number in range(3)]
    await api.post(TASKS, json={"type": "codex-cli", "prompt": "p"})
    page = await data(await api.get(TASKS, params={"limit": 2, "type": "command", "status": "pending"}))
    rest = await data(await api.get(TASKS, params={"limit": 2, "before": page["next"]}))
    assert [task["id"] for task in page["list"] + rest["list"]] == made[::-1]
    assert rest["next"] is None
    assert (await data(await api.get(TASKS, params={"status": "running"})))["list"] == []
    assert (await api.get(TASKS, params={"status": "asleep"})).status_code == 422


async def test_a_task_of_somebody_else_is_unknown_and_reading_needs_no_more_than_read(
    here: Plane, url: str, api: httpx.AsyncClient
) -> None:
    task = await submit(api)
    for scope, owner, seen, submitted in (
        (Scope.READ, "owner", 200, 403),
        (Scope.HOST, "owner", 200, 201),
        (Scope.HOST, "stranger", 404, 201),
        (Scope.RUNNER, "owner", 403, 403),
    ):
        key = await here.key(scope, owner=owner)
        async with httpx.AsyncClient(base_url=url, headers={"api-key": key}, trust_env=False) as client:
            assert (await client.get(f"{TASKS}/{task['id']}")).status_code == seen
            assert (await client.post(TASKS, json={"type": "command", "command": "a"})).status_code == submitted
            if owner == "stranger":
                assert len((await data(await client.get(TASKS)))["list"]) == 1
                assert (await client.post(f"{TASKS}/{task['id']}/cancel")).status_code == 404


async def test_a_task_waits_for_a_yes_and_a_no_ends_it(here: Plane, api: httpx.AsyncClient) -> None:
    played = await runner(here)
    task, other = await submit(api, approval=True), await submit(api, approval=True)
    why = await data(await api.get(f"{TASKS}/{task['id']}/explain"))
    assert (why["code"], why["hint"]) == ("approval", f"Approve it: clawplane task approve {task['id']}")
    refused = await data(await api.post(f"{TASKS}/{other['id']}/refuse"))
    assert (refused["status"], refused["reason"]) == ("failed", "refused")
    assert played.offers.empty()
    assert (await data(await api.post(f"{TASKS}/{task['id']}/approve")))["approval"] == "given"
    assert (await played.take()).subject == task["id"]
    assert (await api.post(f"{TASKS}/{task['id']}/approve")).status_code == 409


async def test_an_ended_task_is_submitted_again_as_a_new_one(here: Plane, api: httpx.AsyncClient) -> None:
    played = await runner(here)
    task = await submit(api)
    assert (await api.post(f"{TASKS}/{task['id']}/retry")).status_code == 409
    await end(played, await played.take(), "", 1)
    again = await data(await api.post(f"{TASKS}/{task['id']}/retry"))
    assert again["id"] != task["id"]
    assert (await played.take()).subject == again["id"]


async def test_waiting_tasks_are_explained(api: httpx.AsyncClient, here: Plane) -> None:
    codes = []
    for fields in ({}, {"delay_ms": 60_000}, {"target": {"runner": "mac"}}):
        task = await submit(api, **fields)
        codes.append(await data(await api.get(f"{TASKS}/{task['id']}/explain")))
    assert [why["code"] for why in codes] == ["no_runner", "scheduled", "no_runner"]
    assert "'mac'" in codes[2]["reason"]
    assert "clawplane runner --host-tasks" in codes[0]["hint"]


async def test_runners_are_listed_with_what_they_take_and_have_of_host_tasks(
    here: Plane, api: httpx.AsyncClient
) -> None:
    played = here.runner(capabilities=(*TAKES, "workers", "builds"), slots={"host": 5, "workers": 1, "builds": 1})
    await played.connect()
    worker = await here.worker(played)
    asked = {"input": {"parameters": {"custom": {"keywords": ["a"]}}}}
    started = await api.post(f"/api/v2/workers/{worker}/runs", json=asked)
    assert started.status_code == 200, started.text
    await played.take()  # a subtask is none of the host tasks
    await submit(api)
    await played.take()
    (found,) = (await data(await api.get("/v1/host/runners")))["list"]
    assert found["takes"] == ["claude", "codex", "command", "files", "gemini"]
    assert (found["name"], found["kind"], found["connected"]) == ("scripted", "link", True)
    assert (found["running"], found["slots"]) == (1, 5)


async def test_the_trail_is_listed_filtered_and_followed_over_a_break(here: Plane, api: httpx.AsyncClient) -> None:
    task = await submit(api)
    other = await submit(api)
    listed = (await data(await api.get("/v1/host/events")))["list"]
    assert [event["task_id"] for event in listed] == [task["id"], other["id"]]
    mine = (await data(await api.get("/v1/host/events", params={"task": task["id"], "type": "task.created"})))["list"]
    assert [event["source"] for event in mine] == ["server"]
    async with opened(api, "/v1/host/events?follow=true", accept="text/event-stream") as lines:
        await until(lines, ": alive")
        await api.post(f"{TASKS}/{task['id']}/cancel")
        seen = await until(lines, "id: ")
    last = seen.removeprefix("id: ")
    assert int(last) > listed[-1]["seq"]
    head = {"accept": "text/event-stream", "last-event-id": str(listed[0]["seq"])}
    async with opened(api, "/v1/host/events?follow=true", **head) as lines:
        assert await until(lines, "id: ") == f"id: {listed[1]['seq']}"
    async with opened(api, f"/v1/host/events?follow=true&after=0&task={other['id']}") as lines:
        assert json.loads(await until(lines, "{"))["task_id"] == other["id"]


async def test_maintenance_trims_and_says_what_is_left(api: httpx.AsyncClient) -> None:
    await submit(api)
    trimmed = await data(await api.post("/v1/host/events/maintenance", json={"vacuum": True}))
    assert trimmed == {"expired": 0, "overflow": 0, "count": 1, "vacuumed": True}
    stats = await data(await api.get("/v1/host/events/stats"))
    assert (stats["count"], stats["by_type"], stats["max_events"]) == (1, {"task.created": 1}, 2000)


async def test_metrics_tell_what_waits_for_how_long_and_who_polls(here: Plane, api: httpx.AsyncClient) -> None:
    await submit(api)
    shown = (await api.get("/metrics")).text
    assert 'clawplane_host_tasks{status="pending"} 1.0' in shown
    assert 'clawplane_host_waiting{caps="host@command"} 1.0' in shown
    assert 'clawplane_host_oldest_wait_seconds{caps="host@command"}' in shown
    assert "clawplane_host_parked_polls 0.0" in shown


async def test_tool_uses_of_a_running_agent_are_listed_and_decided(here: Plane, api: httpx.AsyncClient) -> None:
    played = await runner(here)
    answer = await api.post(TASKS, json={"type": "claude-cli", "prompt": "p", "approval": "tools"})
    task = answer.json()["data"]["task"]
    uses = f"{TASKS}/{task['id']}/tool-uses"
    assert (await data(await api.get(uses)))["list"] == []
    decided: list[Decide] = []

    def play(asking: Asking) -> None:
        if asking.method == "tool_uses":
            msgspec.msgpack.decode(asking.body, type=Nothing)
            one = ToolUse(id="t1", tool="Bash", detail='{"command":"ls"}', cwd="/", asked_at=5)
            asking.answer(msgspec.msgpack.encode(ToolUses(waiting=(one,))))
        else:
            decided.append(msgspec.msgpack.decode(asking.body, type=Decide))
            asking.answer(msgspec.msgpack.encode(Decided(taken=decided[-1].id == "t1")))

    played.play = play
    await played.take()
    (found,) = (await data(await api.get(uses)))["list"]
    assert found == {"id": "t1", "tool": "Bash", "detail": '{"command":"ls"}', "cwd": "/", "asked_at": 5}
    approved = await api.post(f"{TASKS}/{task['id']}/approve", json={"tool_use": "t1"})
    gone = await api.post(f"{TASKS}/{task['id']}/refuse", json={"tool_use": "t9", "reason": "no"})
    assert (approved.status_code, gone.status_code) == (200, 409)
    assert [(word.id, word.allowed, word.reason) for word in decided] == [
        ("t1", True, "Allowed by owner."),
        ("t9", False, "no"),
    ]
    events = (await data(await api.get("/v1/host/events", params={"type": "task.tool-approved"})))["list"]
    assert [event["details"] for event in events] == [{"toolUse": "t1", "by": "owner"}]


async def test_without_host_tasks_the_paths_say_so(tmp_path: Path) -> None:
    async with plane(tmp_path) as bare, bare.client() as client:
        answer = await client.post(TASKS, json={"type": "command", "command": "a"})
        assert answer.status_code == 501
        assert (await client.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=1000000", "limit"),
        ("limit=501", "limit"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e3", "limit"),
        ("limit=%D9%A3", "limit"),
        (f"limit={'9' * 5000}", "limit"),
        ("after=-1", "after"),
        ("after=x", "after"),
        (f"after={'9' * 18}", "after"),
        ("follow=perhaps", "follow"),
        ("follow=true&after=1.5", "after"),
    ],
    ids=lambda value: value[:30],
)
async def test_a_question_to_the_trail_that_makes_no_sense_names_what_is_wrong(
    api: httpx.AsyncClient, query: str, named: str
) -> None:
    answer = await api.get(f"/v1/host/events?{query}")
    assert answer.status_code == 422
    assert answer.json()["message"].startswith(f"{named}: ")
    assert answer.json()["hint"]
    assert len(answer.content) < 500
