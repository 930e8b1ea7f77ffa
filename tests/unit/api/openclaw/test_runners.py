"""What polling runners may say beyond the old wire, and what the wire promises those that say nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from task_plane import TaskPlane, task_plane

from clawplane.domain.clock import ManualClock, SystemClock
from clawplane.domain.host_ports import Retention
from clawplane.domain.host_tasks import HOST_SILENCE_MS, TaskId
from clawplane.domain.ids import RunnerId
from clawplane.domain.leases import SILENCE_MS, RunnerRecord


async def test_a_waiting_poll_is_claimed_for_in_the_turn_of_the_submission_and_never_in_vain(plane: TaskPlane) -> None:
    """R17. No timer and no other commit lies between the two; what that takes is measured by bench/host_tasks.py."""
    client, poller, other = plane.client(), plane.client(), plane.client()
    tasks, steps = plane.store.host_tasks, list[str]()
    submit, claim = tasks.submit, tasks.claim

    async def submitting(*values: Any, **more: Any) -> Any:
        steps.append("submit")
        try:
            return await submit(*values, **more)
        finally:
            steps.append("stored")

    async def claiming(*values: Any, **more: Any) -> Any:
        steps.append("claim")
        return await claim(*values, **more)

    tasks.submit, tasks.claim = submitting, claiming  # type: ignore[method-assign]
    for _ in range(20):
        await poller.send("GET", "/worker/poll?wait=60000")
        await plane.until_parked(1)
        for _ in range(5):
            await other.get("/health")  # whatever was still to be claimed has been
        steps.clear()
        for _ in range(20):
            await other.get("/tasks/stats")
        assert steps == []  # a poll that waits asks for nothing
        task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
        assert (await poller.answer()).json["id"] == task
        assert steps[:3] == ["submit", "claim", "stored"]


async def test_a_waiting_fetch_ends_with_the_result_and_otherwise_on_time(plane: TaskPlane) -> None:
    client, waiter = plane.client(), plane.client()
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    assert (await waiter.get(f"/tasks/{task}?wait=10")).json["status"] == "pending"
    await waiter.send("GET", f"/tasks/{task}?wait=300000")
    await client.get("/health")
    await client.post("/worker/result", {"taskId": task, "stdout": "now", "exitCode": 0})
    async with asyncio.timeout(30):
        assert (await waiter.answer()).json["stdout"] == "now"


async def test_of_two_who_wait_for_one_result_one_gets_it_and_the_other_hears_404(plane: TaskPlane) -> None:
    client, waiters = plane.client(), [plane.client(), plane.client()]
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    for waiter in waiters:
        await waiter.send("GET", f"/tasks/{task}?wait=60000")
    await client.post("/worker/result", {"taskId": task, "stdout": "x", "exitCode": 0})
    answers = [await waiter.answer() for waiter in waiters]
    assert sorted(answer.status for answer in answers) == [200, 404]


async def test_a_runner_is_given_only_what_it_can_do_and_what_is_meant_for_it(plane: TaskPlane) -> None:
    client = plane.client()
    bodies = [
        ("/tasks", {"command": "for mac", "target": "mac"}),
        ("/tasks", {"command": "for linux", "target": {"labels": {"os": "linux"}}}),
        ("/codex", {"prompt": "p"}),
        ("/tasks", {"command": "for anybody"}),
    ]
    mac, linux, codex, anybody = [(await client.post(path, body)).json["taskId"] for path, body in bodies]

    async def polled(query: str) -> str | None:
        given = (await client.get(f"/worker/poll?wait=1&{query}")).json
        return None if given is None else str(given["id"])

    assert await polled("runnerId=pc&capabilities=files") is None
    assert await polled("runnerId=pc&capabilities=codex-cli,files") == codex
    assert await polled("runnerId=mac&labels=os=mac") == mac
    assert await polled("runnerId=pc&labels=os=linux,gpu=no") == linux
    assert await polled("") == anybody
    assert await polled("runnerId=mac") is None


async def test_runners_that_name_themselves_are_listed(plane: TaskPlane) -> None:
    client = plane.client()
    await client.get("/worker/poll?wait=1&runnerId=mac&labels=os=mac&capabilities=command")
    beat = {"runnerId": "pc", "name": "desk", "version": "9.9", "labels": {"os": "linux"}, "slots": 5}
    assert (await client.post("/worker/heartbeat", beat)).json == {
        "success": True,
        "silenceMs": HOST_SILENCE_MS,
        "lost": [],
        "cancel": [],
    }
    listed = {runner["id"]: runner for runner in (await client.get("/runners")).json["runners"]}
    assert listed["mac"]["labels"] == {"os": "mac"}
    assert listed["mac"]["capabilities"] == ["host", "host@command"]
    assert (listed["pc"]["name"], listed["pc"]["version"], listed["pc"]["slots"]) == ("desk", "9.9", {"host": 5})
    assert listed["pc"]["kind"] == "poll"


async def test_linked_runners_are_listed_when_they_take_host_tasks_also_while_they_are_away(plane: TaskPlane) -> None:
    client = plane.client()
    await client.get("/worker/poll?wait=1&runnerId=mac")
    for name, takes, connected in (
        ("guests", ("workers", "builds", "sessions"), True),
        ("both", ("workers", "host", "host@command"), True),
        ("away", ("host", "host@files"), False),
    ):
        known = RunnerRecord(
            id=RunnerId(name),
            name=name,
            version="9.9",
            capabilities=takes,
            labels={},
            slots=dict.fromkeys(takes, 1),
            connected=connected,
            last_seen=SystemClock().now_ms(),
        )
        await plane.store.queue.upsert_runner(known)
    listed = (await client.get("/runners")).json["runners"]
    assert {(each["id"], each["kind"], each["connected"]) for each in listed} == {
        ("mac", "poll", True),
        ("both", "link", True),
        ("away", "link", False),
    }


async def test_a_runner_that_is_silent_for_long_is_away_and_a_task_that_waits_for_it_says_so(tmp_path: Path) -> None:
    clock = ManualClock()
    async with task_plane(tmp_path, clock=clock) as plane:
        client = plane.client()

        async def standing() -> tuple[dict[str, bool], str]:
            listed = (await client.get("/runners")).json["runners"]
            why = await plane.house.host.explain(await plane.house.host.find(task))
            return {each["id"]: each["connected"] for each in listed}, why.code

        linked = RunnerRecord(
            id=RunnerId("linked"),
            name="linked",
            version="9.9",
            capabilities=("host", "host@files"),
            labels={},
            slots={"host": 1},
            connected=True,
            last_seen=clock.now_ms(),
        )
        await plane.store.queue.upsert_runner(linked)  # as one is known that left while the control plane was down
        await client.get("/worker/poll?wait=1&runnerId=mac&capabilities=command")
        task = TaskId((await client.post("/tasks", {"command": "x"})).json["taskId"])
        assert await standing() == ({"linked": True, "mac": True}, "queued")
        clock.advance(2 * SILENCE_MS / 1000 + 1)
        assert await standing() == ({"linked": False, "mac": True}, "queued")
        clock.advance(120)
        assert await standing() == ({"linked": False, "mac": False}, "runner_away")


async def test_heartbeats_keep_tasks_tell_of_cancels_and_of_what_was_lost(plane: TaskPlane) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    given = (await client.get("/worker/poll?wait=1000&runnerId=mac&heartbeats=1")).json
    held = {"taskId": task, "claim": given["claim"]}

    async def beat(*tasks: object) -> object:
        told = (await client.post("/worker/heartbeat", {"runnerId": "mac", "tasks": list(tasks)})).json
        return told["lost"], told["cancel"]

    assert await beat(held) == ([], [])
    assert await beat({"taskId": task, "claim": given["claim"] + 1}) == ([task], [])
    assert await beat({"taskId": "unknown", "claim": 1}) == (["unknown"], [])
    bad = await client.post("/worker/heartbeat", {"runnerId": "mac", "tasks": [5]})
    assert (bad.status, bad.json["error"].split(":")[0]) == (400, "tasks")


async def test_a_runner_with_heartbeats_that_falls_silent_loses_its_task_and_one_without_does_not(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with task_plane(tmp_path, clock=clock) as plane:
        client = plane.client()
        beating = (await client.post("/tasks", {"command": "a", "timeout": 3_600_000})).json["taskId"]
        assert (await client.get("/worker/poll?runnerId=mac&heartbeats=1")).json["id"] == beating
        silent = (await client.post("/tasks", {"command": "b", "timeout": 3_600_000})).json["taskId"]
        assert (await client.get("/worker/poll")).json["id"] == silent
        clock.advance(HOST_SILENCE_MS / 1000 + 1)
        await plane.store.queue.expire(now=clock.now_ms(), silence_ms=SILENCE_MS)
        statuses = {task["id"]: task["status"] for task in (await client.get("/tasks")).json["tasks"]}
        assert statuses == {beating: "pending", silent: "running"}


async def test_a_running_task_outlives_every_retention_and_its_session_stays_locked(tmp_path: Path) -> None:
    clock = ManualClock()
    async with task_plane(tmp_path, clock=clock) as plane:
        client = plane.client()
        first = (await client.post("/claude", {"prompt": "a", "sessionId": "s", "timeout": 7_200_000})).json["taskId"]
        await client.get("/worker/poll")
        clock.advance(3600)
        second = (await client.post("/claude", {"prompt": "b", "sessionId": "s"})).json["taskId"]
        await plane.store.host_tasks.sweep(Retention(task_ms=60_000, session_ms=60_000), now=clock.now_ms())
        assert (await client.get(f"/tasks/{first}")).json["status"] == "running"
        assert (await client.get(f"/tasks/{second}")).json["status"] == "pending"
        await client.send("GET", "/worker/poll?wait=60000")
        await plane.until_parked(1)
        await client.close()
        await client.post("/worker/result", {"taskId": first, "stdout": "late", "exitCode": 0})
        assert (await client.get(f"/tasks/{first}")).json["stdout"] == "late"
        assert (await client.get("/worker/poll")).json["id"] == second


async def test_results_of_unknown_tasks_expire_like_others(tmp_path: Path) -> None:
    clock = ManualClock()
    async with task_plane(tmp_path, clock=clock) as plane:
        client = plane.client()
        await client.post("/worker/result", {"taskId": "orphan", "stdout": "x", "exitCode": 0})
        clock.advance(61)
        await plane.store.host_tasks.sweep(Retention(result_ms=60_000), now=clock.now_ms())
        assert (await client.get("/tasks/orphan")).status == 404
        assert (await client.get("/tasks/stats")).json["queue"]["unconsumedResults"] == 0


async def test_a_thousand_events_of_a_burst_come_back_in_order(plane: TaskPlane) -> None:
    clients = [plane.client() for _ in range(10)]

    async def report(number: int) -> None:
        for step in range(100):
            await clients[number].post("/worker/event", {"type": f"t{number}", "details": step + 1})

    await asyncio.gather(*(report(number) for number in range(10)))
    for number in range(10):
        told = (await clients[0].get(f"/events?type=t{number}&limit=500")).json["events"]
        assert [event["details"] for event in told] == list(range(100, 0, -1))
    forward = (await clients[0].get("/events?sinceId=0&limit=500")).json["events"]
    behind = (await clients[0].get(f"/events?sinceId={forward[-1]['seq']}&limit=500")).json["events"]
    numbers = [event["seq"] for event in forward + behind]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 1000


@pytest.mark.parametrize("details", ["x" * 100_000, {"a": ["y" * 50_000]}])
async def test_oversized_details_are_cut(plane: TaskPlane, details: object) -> None:
    client = plane.client()
    told = (await client.post("/worker/event", {"type": "t", "details": details})).json["event"]["details"]
    assert told["truncated"] is True
    assert len(told["text"]) < 5000
    assert (await client.get("/events")).json["events"][0]["details"] == told


async def test_the_trail_can_be_followed(plane: TaskPlane) -> None:
    client, follower = plane.client(), plane.client()
    await client.post("/worker/event", {"type": "before"})
    await follower.send("GET", "/events/stream?type=wanted")
    assert follower.reader is not None
    head = await follower.reader.readuntil(b"\r\n\r\n")
    assert b"content-type: text/event-stream" in head
    await follower.reader.readuntil(b": following\n\n")
    await client.post("/worker/event", {"type": "other"})
    event = (await client.post("/worker/event", {"type": "wanted", "details": "x"})).json["event"]
    async with asyncio.timeout(30):
        told = await follower.reader.readuntil(b"\n\n\r\n")
    assert f"id: {event['seq']}\ndata: ".encode() in told
    assert b'"type":"wanted"' in told
    resumed = plane.client()
    await resumed.send("GET", "/events/stream", headers={"Last-Event-ID": "0"})
    assert resumed.reader is not None
    async with asyncio.timeout(30):
        assert b'"type":"before"' in await resumed.reader.readuntil(b'"type":"before"')


async def test_a_stream_ends_when_the_server_stops(tmp_path: Path) -> None:
    async with task_plane(tmp_path) as plane:
        follower = plane.client()
        await follower.send("GET", "/events/stream")
        assert follower.reader is not None
        await follower.reader.readuntil(b": following\n\n")
        plane.server.should_exit = True
        async with asyncio.timeout(20):
            assert (await follower.reader.read()).endswith(b"0\r\n\r\n")


async def test_a_report_that_the_server_knows_of_another_runner_is_taken(plane: TaskPlane) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    await client.get("/worker/poll?runnerId=mac&heartbeats=1")
    await client.post("/worker/result", {"taskId": task, "stdout": "by another", "exitCode": 0})
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == "by another"
    assert (await plane.store.host_tasks.find(TaskId(task))) is not None
