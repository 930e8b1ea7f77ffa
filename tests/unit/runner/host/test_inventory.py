"""A polling runner takes stock while no poll is open: at its start, and when an answer may have been lost."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from played_task_api import TOKEN, PlayedTaskApi, played_task_api
from receiver import Say

from clawplane.domain.clock import SystemClock
from clawplane.domain.host_tasks import TaskId, TaskReport
from clawplane.runner.host.heartbeats import Heartbeats, Held
from clawplane.runner.host.house import HostHouse
from clawplane.runner.host.reporting import Reporter
from clawplane.runner.host.task_api import TaskApi, TaskApiFailed

PLAIN = {"success": True, "silenceMs": 90_000, "lost": [], "cancel": []}


@pytest.fixture
async def api() -> AsyncIterator[PlayedTaskApi]:
    async with played_task_api() as played:
        yield played


def answer(**more: Any) -> Say:
    return Say(200, json.dumps(PLAIN | more).encode())


def inventories(api: PlayedTaskApi) -> list[Any]:
    return [each.json.get("inventory") for each in api.server.heard if each.target == "/worker/heartbeat"]


async def take_stock(api: PlayedTaskApi, held: dict[TaskId, Held], *reported: tuple[TaskId, int]) -> None:
    async with TaskApi(api.url, TOKEN) as wire:
        await Heartbeats(wire, {"runnerId": "r"}, held, monotonic=SystemClock().monotonic).take_stock(reported)


async def test_it_names_what_runs_and_what_is_not_acknowledged_with_their_claims(api: PlayedTaskApi) -> None:
    api.heartbeats.append(answer(inventory={"taken": True, "number": 1}))
    held = {TaskId("runs"): Held(7), TaskId("of-a-peer"): Held(None)}
    await take_stock(api, held, (TaskId("reported"), 5))
    (told,) = [each.json for each in api.server.heard]
    assert told["tasks"] == [{"taskId": "reported", "claim": 5}, {"taskId": "runs", "claim": 7}]
    assert told["runnerId"] == "r"


async def test_it_counts_on_from_where_an_earlier_life_of_the_runner_came_to(api: PlayedTaskApi) -> None:
    old = {"taken": False, "number": 41}
    api.heartbeats.extend([answer(inventory=old), answer(inventory={"taken": True, "number": 42})])
    await take_stock(api, {})
    assert inventories(api) == [1, 42]


@pytest.mark.parametrize(
    "said",
    [
        Say(404),
        Say(405),
        Say(400, b'{"error":"inventory"}'),
        answer(),
        answer(inventory=None),
        answer(inventory={"taken": False, "number": "x"}),
        answer(inventory={"taken": False, "number": 0}),
    ],
    ids=["404", "405", "400", "silent", "null", "no-number", "backwards"],
)
async def test_a_server_that_takes_no_inventory_is_asked_once_and_served(api: PlayedTaskApi, said: Say) -> None:
    api.heartbeats.append(said)
    await take_stock(api, {})
    assert len(inventories(api)) == 1


@pytest.mark.parametrize("said", [Say(500), Say(503), Say(429), Say(200, b"<html>")])
async def test_a_server_in_trouble_is_asked_again_before_anything_is_polled(api: PlayedTaskApi, said: Say) -> None:
    api.heartbeats.append(said)
    with pytest.raises(TaskApiFailed):
        await take_stock(api, {})


async def test_reports_that_are_not_acknowledged_are_known_with_their_claims_also_after_a_restart(
    api: PlayedTaskApi, house: HostHouse
) -> None:
    house.spool.put("task-old", b"no JSON at all")
    heard = api.server
    async with TaskApi(api.url, TOKEN) as wire:
        for life in range(2):
            reporter = Reporter(wire, house.spool, jitter=lambda s: s, monotonic=SystemClock().monotonic)
            if life == 0:
                await reporter.put(TaskId("t-1"), TaskReport(exit_code=0), claim=7, attempt=1)
                await reporter.put(TaskId("of-a-peer"), TaskReport(exit_code=0), claim=None)
            else:
                await reporter.start()
            assert reporter.claims() == [("t-1", 7)]
            if life == 1:
                await heard.until(3, lambda each: each.target == "/worker/result")
                assert await reporter.settle(10)
                assert reporter.claims() == []
            await reporter.close()


class Waking:
    """A beat's clock: a monotonic time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("claims", "failed", "seconds"),
    [((), False, 15.0), ((None,), False, 15.0), ((7,), False, 5.0), ((None, 7), True, 2.0), ((), True, 15.0)],
    ids=["idle", "of-a-peer", "holding", "holding-unheard", "idle-unheard"],
)
async def test_beats_follow_each_other_sooner_while_a_task_is_held_and_soonest_after_one_that_failed(
    api: PlayedTaskApi, claims: tuple[int | None, ...], failed: bool, seconds: float
) -> None:
    held = {TaskId(f"t-{number}"): Held(claim) for number, claim in enumerate(claims)}
    clock = Waking()
    async with TaskApi(api.url, TOKEN) as wire:
        beats = Heartbeats(wire, {}, held, monotonic=clock)
        api.heartbeats.append(Say(503) if failed else answer())
        await beats.beat()
        clock.now += 1.5
        assert beats.due_in() == seconds - 1.5


async def test_whoever_waits_is_told_when_the_server_is_heard_again(api: PlayedTaskApi) -> None:
    told = []
    api.heartbeats.extend([answer(), Say(503), Say(503), answer(), answer()])
    async with TaskApi(api.url, TOKEN) as wire:
        beats = Heartbeats(wire, {}, {}, monotonic=Waking(), back=lambda: told.append(len(api.server.heard)))
        for _ in range(5):
            await beats.beat()
    assert told == [4]


async def test_a_report_that_waits_is_sent_when_somebody_hurries(api: PlayedTaskApi, house: HostHouse) -> None:
    async def forever(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    waiting = asyncio.Event()
    api.results.append(Say(503))
    async with TaskApi(api.url, TOKEN) as wire:
        reporter = Reporter(wire, house.spool, pause=forever, jitter=lambda s: s, monotonic=SystemClock().monotonic)
        await reporter.start()
        reporter.hurry()  # while nothing waits, which is no reason to hurry later
        await reporter.put(TaskId("t-1"), TaskReport(exit_code=0))
        await asyncio.wait_for(waiting.wait(), 10)
        assert house.spool.load()
        reporter.hurry()
        assert await reporter.settle(10)
        await reporter.close()
