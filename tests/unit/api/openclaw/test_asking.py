"""A runner that polls asks a person about a tool use and hears the answer, however its requests and the server fare."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from task_plane import CLIENT, Client, TaskPlane

from clawplane.domain.errors import Conflict
from clawplane.domain.host_tasks import TaskId
from clawplane.flows import channels

USE = {"id": "u1", "tool": "Bash", "detail": '{"command": "ls"}', "cwd": "/srv"}


async def given(plane: TaskPlane, runner: Client) -> dict[str, Any]:
    """Return a Claude task as a named runner gets it."""
    await plane.client().ask(
        "POST", "/claude", {"prompt": "p", "approval": "tools", "callbackUrl": "https://hook.test/x"}
    )
    found: dict[str, Any] = (await runner.ask("GET", "/worker/poll?runnerId=mac&heartbeats=1")).json
    return found


def asked(task: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"taskId": task["id"], "claim": task["claim"], "toolUse": USE, "wait": 0, **more}


async def questions(plane: TaskPlane) -> int:
    return len([each for each in await plane.store.outbox.due(now=1 << 50, limit=99) if each.question])


async def test_a_request_is_held_until_a_person_has_answered(plane: TaskPlane) -> None:
    runner, host = plane.client(), plane.house.host
    task = await given(plane, runner)
    asking = asyncio.ensure_future(runner.ask("POST", "/worker/ask", asked(task, wait=20_000)))
    wakeup = plane.store.wakeups.listen(channels.CALLBACKS)
    found = await host.find(TaskId(task["id"]))
    while not await host.tool_uses(found):
        assert await wakeup.wait(20)
    wakeup.close()
    (use,) = await host.tool_uses(found)
    assert (use.id, use.tool, use.detail, use.cwd) == ("u1", "Bash", '{"command": "ls"}', "/srv")
    await host.decide_tool(found, "u1", allowed=True, by="ann")
    assert (await asking).json == {"success": True, "decision": "allow", "reason": "Allowed by ann."}
    assert await host.tool_uses(found) == ()
    with pytest.raises(Conflict):
        await host.decide_tool(found, "u1", allowed=False, by="eve")
    again = (await runner.ask("POST", "/worker/ask", asked(task, told=True))).json
    assert again["decision"] == "allow"  # the first answer may have been lost


async def test_people_are_asked_once_however_often_the_runner_does_even_of_a_new_server(plane: TaskPlane) -> None:
    runner = plane.client()
    task = await given(plane, runner)
    for told in (False, True, False):
        answer = await runner.ask("POST", "/worker/ask", asked(task, told=told))
        assert (answer.status, answer.json["decision"]) == (200, None)
    assert await questions(plane) == 1
    plane.house.host.polled._open.clear()  # as a server that was started anew
    assert (await runner.ask("POST", "/worker/ask", asked(task, told=True))).json["decision"] is None
    assert await questions(plane) == 1
    found = await plane.house.host.find(TaskId(task["id"]))
    await plane.house.host.decide_tool(found, "u1", allowed=False, by="ann", reason="not that")
    assert (await runner.ask("POST", "/worker/ask", asked(task, told=True))).json == {
        "success": True,
        "decision": "refuse",
        "reason": "not that",
    }


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"claim": 999_999}, 409),
        ({"taskId": "unknown"}, 404),
        ({"claim": None}, 400),
        ({"toolUse": None}, 400),
        ({"toolUse": {**USE, "id": "a b"}}, 400),
        ({"toolUse": {**USE, "tool": ""}}, 400),
        ({"toolUse": {**USE, "detail": "x" * 9_000}}, 400),
    ],
)
async def test_who_does_not_hold_the_task_or_asks_nothing_clear_asks_nobody(
    plane: TaskPlane, changed: dict[str, Any], status: int
) -> None:
    runner = plane.client()
    task = await given(plane, runner)
    answer = await runner.ask("POST", "/worker/ask", asked(task, **changed))
    assert (answer.status, "error" in answer.json) == (status, True)
    assert await questions(plane) == 0


async def test_a_client_cannot_ask_in_a_runners_name_and_a_task_has_so_many_questions(plane: TaskPlane) -> None:
    runner = plane.client()
    task = await given(plane, runner)
    assert (await plane.client(CLIENT).ask("POST", "/worker/ask", asked(task))).status == 403
    answers = [
        (await runner.ask("POST", "/worker/ask", asked(task, toolUse={**USE, "id": f"u{number}"}))).status
        for number in range(65)
    ]
    assert answers == [200] * 64 + [409]
