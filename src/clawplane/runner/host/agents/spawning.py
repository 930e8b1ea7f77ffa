"""Start agent CLIs the way all programs of host tasks are started: under a keeper that ends the whole tree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from clawplane.runner.host.agents.turn import Ended, Heard, Launch, Spawn
from clawplane.runner.host.processes import CannotStart, Processes, Program
from clawplane.runner.host.stopping import Stop

_ALL: Final = sys.maxsize
"""Structured output is told whole: its last line is the answer."""


def spawn_with(processes: Processes, stop: Stop) -> Spawn:
    """Return how the programs of one task are started; they end when the task is to end."""

    async def spawn(launch: Launch, heard: Heard) -> Ended:
        program = Program(launch.argv, Path(launch.cwd), launch.env, launch.stdin or None)
        try:
            ended = await processes.run(program, seconds=launch.seconds, tell=heard, stop=stop, live=_ALL)
        except CannotStart as failed:
            return Ended(exit_code=-1, error=str(failed))
        late = ended.how == "timeout"
        return Ended(
            exit_code=-1 if late else ended.code,
            stdout=ended.stdout,
            stderr=ended.stderr,
            signal=ended.signal,
            timed_out=late,
            stopped=ended.how in ("cancel", "leave", "drop"),
        )

    return spawn
