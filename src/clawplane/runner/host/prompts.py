"""Let an agent CLI answer a prompt: hand its adapter what it needs of the runner, and see that it ends in time."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from clawplane.domain.errors import ClawplaneError
from clawplane.domain.host_tasks import Prompt, TaskReport
from clawplane.runner.host.agents.spawning import spawn_with
from clawplane.runner.host.agents.turn import AgentContext
from clawplane.runner.host.doing import Doing
from clawplane.runner.host.environment import with_task_variables
from clawplane.runner.host.house import HostHouse
from clawplane.runner.host.processes import GONE_SECONDS

_LAST_SECONDS: Final = 2.0
"""What an adapter is given to report, after its program has gone."""


async def run_prompt(work: Prompt, doing: Doing) -> TaskReport:
    """Answer a prompt; raises ClawplaneError for what cannot be done."""
    spec, house, stop, voices = doing.spec, doing.house, doing.stop, doing.voices
    adapter = house.agents.get(work.cli)
    if adapter is None:
        told = f"This runner knows no CLI named {work.cli!r}."
        return TaskReport(exit_code=-1, error=told, stderr=told)
    cwd = house.directory_of(spec.cwd)
    if work.timeout <= 0:
        work = msgspec.structs.replace(work, timeout=house.settings.timeout_ms)
    context = AgentContext(
        spec=spec,
        cwd=str(cwd),
        env={**with_task_variables(house.environment, spec.env), "PWD": str(cwd)},
        spawn=spawn_with(house.processes, stop),
        clock=house.clock,
        tell=doing.tell,
        told=voices.told,
        bind=voices.bind,
        stop=stop,
        ask=voices.ask,
        may_start_in=lambda wanted: _may_start_in(house, wanted),
        channel=voices.channel,
    )
    answering = asyncio.create_task(adapter.run(work, context))
    asked = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([answering, asked], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():  # the adapter ends by itself, having heard of it too
            await asyncio.wait([answering], timeout=stop.grace + GONE_SECONDS + _LAST_SECONDS)
        if answering.done():
            return answering.result()
        return TaskReport(exit_code=-1, error="Cancelled", stderr="Cancelled")
    finally:
        asked.cancel()
        answering.cancel()
        await asyncio.gather(asked, answering, return_exceptions=True)


def _may_start_in(house: HostHouse, wanted: str) -> bool:
    """Tell whether the policy lets an agent start in the directory that its conversation belongs to."""
    try:
        house.directory_of(wanted)
    except ClawplaneError:
        return False
    return True
