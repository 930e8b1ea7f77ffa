"""Network traffic of a run: what its parts used is summed up, and bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plane import Plane, ScriptedRunner, claim, plane

from clawplane.domain.access import Caller, Scope
from clawplane.domain.lifecycle import RunStatus, SubtaskStatus
from clawplane.domain.runs import Run

CALLER = Caller(key_id="k", owner="owner", scopes=frozenset({Scope.ADMIN}))
MB = 1 << 20


async def started(here: Plane, *, parts: int, slots: int = 8, **system: Any) -> tuple[ScriptedRunner, Run]:
    runner = here.runner(slots={"workers": slots, "builds": 2})
    await runner.connect()
    await here.worker(runner)
    custom = {"keywords": [str(part) for part in range(parts)]}
    text = json.dumps({"parameters": {"custom": custom, "system": system}}).encode()
    return runner, await here.flows.runs.start(CALLER, "owner~demo-worker", text)


async def statuses(here: Plane, run: Run) -> list[SubtaskStatus]:
    return sorted(subtask.status for subtask, _ in await here.flows.runs.subtasks(CALLER, run.slug))


async def test_what_the_parts_of_a_run_used_is_the_runs_traffic(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, run = await started(here, parts=3)
        for traffic in (5, 0, 7):
            await runner.end(await runner.take(), traffic=traffic)
        ended = await here.flows.runs.wait(run.slug, 5)
        assert (ended.status, ended.traffic) == (RunStatus.SUCCEEDED, 12)


@pytest.mark.parametrize("slots", [8, 1])
async def test_a_part_that_was_ended_for_its_traffic_ends_the_run(tmp_path: Path, slots: int) -> None:
    async with plane(tmp_path) as here:
        runner, run = await started(here, parts=2, slots=slots, max_total_traffic=1)
        first, *others = [await runner.next_offer() for _ in range(min(slots, 2))]
        for offer in (first, *others):
            assert await here.flows.leases.confirm(runner.id, claim(offer))
        await runner.end(first, succeeded=False, reason="traffic", message="reached the limit", traffic=MB - 10)
        assert [job for job, _, _ in runner.cancels] == [other.job for other in others]
        for other in others:
            await runner.end(other, succeeded=False, reason="aborted")
        ended = await here.flows.runs.wait(run.slug, 5)
        assert (ended.status, ended.error) == (RunStatus.FAILED, "reached the limit")
        assert await statuses(here, run) == [SubtaskStatus.ABORTED, SubtaskStatus.FAILED]
        log = [line.content for line in await here.store.runs.log_tail(run.slug, limit=10)]
        assert any("has used up its 1 MB of network traffic" in line for line in log)
        assert log[-1].startswith("SYSTEM: Run failed: 2 subtasks")


async def test_parts_that_use_too_much_together_stop_the_rest(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, _ = await started(here, parts=3, max_total_traffic=1)
        offers = [await runner.take() for _ in range(3)]
        await runner.end(offers[0], traffic=MB)
        assert runner.cancels == []
        await runner.end(offers[1], traffic=1)
        assert [job for job, _, _ in runner.cancels] == [offers[2].job]


async def test_without_a_limit_no_traffic_stops_a_run(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner, _ = await started(here, parts=2)
        offers = [await runner.take() for _ in range(2)]
        await runner.end(offers[0], traffic=1 << 45)
        assert runner.cancels == []
