"""Taking stock over the wire: what a runner does not have is given to others at once, and never by an old word."""

from __future__ import annotations

from typing import Any

import pytest
from task_plane import RUNNER, Client, TaskPlane


async def given(client: Client, runner: str = "mac") -> dict[str, Any]:
    told: dict[str, Any] = (await client.get(f"/worker/poll?wait=1000&runnerId={runner}&heartbeats=1")).json
    return told


async def stock(client: Client, number: object, *tasks: object, runner: str = "mac") -> dict[str, Any]:
    body = {"runnerId": runner, "tasks": list(tasks), "inventory": number}
    told: dict[str, Any] = (await client.post("/worker/heartbeat", body)).json
    return told


async def test_a_runner_that_was_started_anew_has_its_tasks_offered_again_at_once(plane: TaskPlane) -> None:
    client, runner, other = plane.client(), plane.client(RUNNER), plane.client(RUNNER)
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    held = await given(runner)
    named = {"taskId": task, "claim": held["claim"]}
    assert (await stock(runner, 1, named))["inventory"] == {"taken": True, "number": 1}
    await other.send("GET", "/worker/poll?wait=60000&runnerId=pc")
    await plane.until_parked(1)
    told = await stock(runner, 1)
    assert told["inventory"] == {"taken": False, "number": 1}
    assert (await client.get(f"/tasks/{task}")).json["status"] == "running"
    assert (await stock(runner, 2))["inventory"] == {"taken": True, "number": 2}
    assert (await other.answer()).json["id"] == task  # whoever waits has it, nobody waits for a silence
    assert (await stock(runner, 3, named))["lost"] == [task]


async def test_a_poll_of_its_past_is_given_nothing_any_more(plane: TaskPlane) -> None:
    client, past, other = plane.client(), plane.client(), plane.client()
    await past.send("GET", "/worker/poll?wait=60000&runnerId=mac")
    await plane.until_parked(1)
    await other.send("GET", "/worker/poll?wait=60000&runnerId=pc")
    await plane.until_parked(2)
    await stock(client, 1)
    assert (await past.answer()).json is None
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    assert (await other.answer()).json["id"] == task


async def test_a_heartbeat_without_an_inventory_takes_nothing_back_and_is_answered_as_ever(plane: TaskPlane) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    await given(client)
    told = (await client.post("/worker/heartbeat", {"runnerId": "mac", "tasks": []})).json
    assert told.keys() == {"success", "silenceMs", "lost", "cancel"}
    assert (await client.get(f"/tasks/{task}")).json["status"] == "running"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"inventory": 0, "tasks": []}, "inventory"),
        ({"inventory": -1, "tasks": []}, "inventory"),
        ({"inventory": True, "tasks": []}, "inventory"),
        ({"inventory": "1", "tasks": []}, "inventory"),
        ({"inventory": 1.5, "tasks": []}, "inventory"),
        ({"inventory": 1 << 53, "tasks": []}, "inventory"),
        ({"inventory": 1}, "inventory"),
        ({"inventory": 1, "tasks": None}, "inventory"),
        ({"inventory": 1, "tasks": [{"claim": 1}]}, "tasks"),
        ({"inventory": 1, "tasks": [], "labels": "x"}, "labels"),
    ],
)
async def test_an_inventory_that_cannot_be_read_is_refused_and_takes_nothing_back(
    plane: TaskPlane, body: dict[str, Any], named: str
) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "x"})).json["taskId"]
    await given(client)
    answer = await client.post("/worker/heartbeat", {"runnerId": "mac", **body})
    assert (answer.status, answer.json["error"].partition(":")[0]) == (400, named)
    assert (await client.get(f"/tasks/{task}")).json["status"] == "running"
    assert (await stock(client, 1))["inventory"] == {"taken": True, "number": 1}
