"""A report of a task that the reporter does not have: each is answered as the contract says, and one result counts.

The wire's reports name a task and nothing else, and runners of the peer have no names: so of those with a runner's
token the first ends the task, whoever holds it, and whatever comes later changes nothing but the trail.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from task_plane import CLIENT, RUNNER, TOKEN, Client, TaskPlane, task_plane

from clawplane.domain.clock import ManualClock
from clawplane.domain.leases import SILENCE_MS

SUCCESS = b'{"success":true}'


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def timed(tmp_path: Path, clock: ManualClock) -> AsyncIterator[TaskPlane]:
    """A server by the tests' clock."""
    async with task_plane(tmp_path, clock=clock) as opened:
        yield opened


async def submitted(client: Client, **more: Any) -> str:
    return str((await client.post("/tasks", {"command": "x", **more})).json["taskId"])


async def given(plane: TaskPlane, runner: str = "mac") -> dict[str, Any]:
    told: dict[str, Any] = (
        await plane.client(RUNNER).get(f"/worker/poll?wait=1000&runnerId={runner}&heartbeats=1")
    ).json
    return told


async def lost(client: Client, task: dict[str, Any], runner: str = "mac") -> bool:
    """Tell whether the runner hears that the task is not its own any more."""
    body = {"runnerId": runner, "tasks": [{"taskId": task["id"], "claim": task["claim"]}]}
    told = (await client.post("/worker/heartbeat", body)).json
    assert told["lost"] in ([], [task["id"]])
    return bool(told["lost"])


async def everything(client: Client, task: str) -> tuple[Any, ...]:
    """Return all that anybody can see of a task without changing it."""
    return (
        (await client.get(f"/tasks/{task}?peek=1")).raw,
        [(each["type"], each["details"]) for each in (await client.get(f"/events?taskId={task}")).json["events"]],
        (await client.get("/tasks/stats")).json["queue"],
        [each for each in (await client.get("/tasks")).json["tasks"] if each["id"] == task],
    )


async def report(client: Client, task: str, text: str = "reported", code: int = 0, **more: Any) -> Any:
    return await client.post("/worker/result", {"taskId": task, "stdout": text, "exitCode": code, **more})


@pytest.mark.parametrize(
    ("token", "status"),
    [(CLIENT, 403), (None, 401), ("x" * 32, 401), (f"{RUNNER}x", 401)],
    ids=["a client's", "none", "unknown", "longer"],
)
async def test_without_a_runners_token_a_report_changes_nothing(
    plane: TaskPlane, token: str | None, status: int
) -> None:
    client = plane.client()
    task = await submitted(client)
    held = await given(plane)
    before = await everything(client, task)
    for path, body in (
        ("/worker/result", {"taskId": task, "stdout": "forged", "exitCode": 0}),
        ("/worker/event", {"taskId": task, "type": "task.completed"}),
        ("/worker/heartbeat", {"runnerId": "mac", "tasks": [], "inventory": 1}),
    ):
        assert (await plane.client(token).post(path, body)).status == status
    assert await everything(client, task) == before
    assert not await lost(plane.client(RUNNER), held)
    assert (await report(plane.client(RUNNER), task)).raw == SUCCESS
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == "reported"


@pytest.mark.parametrize("token", [RUNNER, TOKEN], ids=["a runner's", "the shared one"])
async def test_of_two_runners_the_first_to_report_ends_the_task_and_the_other_changes_nothing(
    plane: TaskPlane, token: str
) -> None:
    client, other = plane.client(), plane.client(token)
    task = await submitted(client)
    held = await given(plane)
    assert (await report(other, task, "by another", runnerId="pc")).raw == SUCCESS
    assert await lost(plane.client(RUNNER), held)  # so whoever runs it ends it without a word
    first = await everything(client, task)
    for text, code in (("by its holder", 0), ("by its holder", 1), ("", -1)):
        answer = await report(plane.client(RUNNER), task, text, code, claim=held["claim"])
        assert (answer.status, answer.raw) == (200, SUCCESS)
    after = await everything(client, task)
    assert (after[0], after[2], after[3]) == (first[0], first[2], first[3])
    kinds = [kind for kind, _ in after[1]]
    assert (kinds.count("task.report-conflict"), kinds.count("task.completed"), kinds.count("task.failed")) == (3, 1, 0)
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == "by another"


async def test_a_report_of_an_attempt_that_was_lost_counts_if_it_is_the_first(plane: TaskPlane) -> None:
    client, runner = plane.client(), plane.client(RUNNER)
    task = await submitted(client)
    early = await given(plane)
    await runner.post("/worker/heartbeat", {"runnerId": "mac", "tasks": [], "inventory": 1})
    late = await given(plane, "pc")
    assert late["claim"] > early["claim"]
    assert (await report(runner, task, "of the first attempt", claim=early["claim"])).raw == SUCCESS
    assert await lost(runner, late, "pc")
    assert (await report(runner, task, "of the second attempt", claim=late["claim"])).raw == SUCCESS
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == "of the first attempt"
    assert (await client.get("/tasks/stats")).json["queue"]["byStatus"] == {}


async def test_a_report_behind_the_second_attempts_changes_nothing(plane: TaskPlane) -> None:
    client, runner = plane.client(), plane.client(RUNNER)
    task = await submitted(client)
    early = await given(plane)
    await runner.post("/worker/heartbeat", {"runnerId": "mac", "tasks": [], "inventory": 1})
    late = await given(plane, "pc")
    await report(runner, task, "of the second attempt", claim=late["claim"])
    assert (await report(runner, task, "of the first attempt", claim=early["claim"])).raw == SUCCESS
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == "of the second attempt"


async def test_a_report_of_a_cancelled_task_does_not_undo_its_cancel(plane: TaskPlane) -> None:
    client, runner = plane.client(), plane.client(RUNNER)
    waiting, running = await submitted(client), await submitted(client)
    await client.post(f"/tasks/{waiting}/cancel")
    assert (await given(plane))["id"] == running
    await client.post(f"/tasks/{running}/cancel")
    for task in (waiting, running):
        before = await everything(client, task)
        assert (await report(runner, task, "done all the same")).raw == SUCCESS
        after = await everything(client, task)
        assert (after[0], after[2], after[3]) == (before[0], before[2], before[3])
        assert after[1][0][0] == "task.report-conflict"
        result = (await client.get(f"/tasks/{task}")).json
        assert (result["stdout"], result["exitCode"] == 0) == ("", False)


async def test_a_report_of_a_task_that_ran_out_of_time_comes_too_late(timed: TaskPlane, clock: ManualClock) -> None:
    client = timed.client()
    task = await submitted(client, timeout=1000)
    await given(timed)
    clock.advance(62)
    await timed.store.queue.expire(now=clock.now_ms(), silence_ms=SILENCE_MS)
    before = await everything(client, task)
    assert [kind for kind, _ in before[1]][:2] == ["task.failed", "task.expired"]
    assert (await report(timed.client(RUNNER), task, "at last")).raw == SUCCESS
    after = await everything(client, task)
    assert (after[0], after[2], after[3]) == (before[0], before[2], before[3])
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == ""


async def test_a_report_of_a_task_whose_result_was_fetched_brings_nothing_back(plane: TaskPlane) -> None:
    client, runner = plane.client(), plane.client(RUNNER)
    task = await submitted(client)
    await given(plane)
    await report(runner, task)
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == "reported"
    counts = (await client.get("/tasks/stats")).json
    for text in ("reported", "another"):
        assert (await report(runner, task, text)).raw == SUCCESS
        assert (await client.get(f"/tasks/{task}")).status == 404
    assert (await client.get("/tasks/stats")).json == counts


async def test_a_report_of_an_unknown_task_is_kept_once_and_touches_no_other(plane: TaskPlane) -> None:
    client, runner = plane.client(), plane.client(RUNNER)
    task = await submitted(client)
    held = await given(plane)
    before = (await everything(client, task))[0]
    for text in ("first", "second"):
        assert (await report(runner, "nobody-knows", text)).raw == SUCCESS
    assert (await client.get("/tasks/stats")).json["queue"]["unconsumedResults"] == 1
    orphan = (await client.get("/tasks/nobody-knows")).json
    assert (orphan["stdout"], orphan["metadata"]["origin"]) == ("first", "unknown")
    assert (await client.get("/tasks/nobody-knows")).status == 404
    assert (await everything(client, task))[0] == before
    assert not await lost(runner, held)
