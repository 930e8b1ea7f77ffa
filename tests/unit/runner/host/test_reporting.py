"""Reports go out until they are acknowledged, also those that take the place of others."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from receiver import Heard, Receiver, Say

from clawplane.domain.clock import SystemClock
from clawplane.domain.host_tasks import TaskId, TaskReport
from clawplane.runner.host.house import HostHouse
from clawplane.runner.host.reporting import Reporter
from clawplane.runner.host.task_api import TaskApi


async def test_a_report_is_sent_although_the_one_whose_place_it_took_is_refused(house: HostHouse) -> None:
    arrived, replaced = asyncio.Event(), asyncio.Event()

    async def play(heard: Heard) -> Say:
        if heard.json["stdout"] == "old":
            arrived.set()
            await replaced.wait()
            return Say(400)
        return Say(200)

    server = Receiver(play)
    await server.open()
    async with TaskApi(server.url, "a-token") as wire:
        reporter = Reporter(wire, house.spool, jitter=lambda s: s, monotonic=SystemClock().monotonic)
        await reporter.put(TaskId("t-1"), TaskReport(stdout="old"), claim=1)
        await reporter.start()
        await arrived.wait()
        await reporter.put(TaskId("t-1"), TaskReport(stdout="new"), claim=2)
        replaced.set()
        assert await reporter.settle(5)
        assert [each.json["stdout"] for each in server.heard] == ["old", "new"]
        assert reporter.claims() == []
        await reporter.close()
    await server.close()
