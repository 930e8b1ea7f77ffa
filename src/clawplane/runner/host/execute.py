"""Do one host task, whatever its kind: one table, one entry point for leases and for polls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from clawplane.domain.errors import ClawplaneError
from clawplane.domain.host_tasks import Command, FileEdit, FileRead, FileWrite, HostSpec, Prompt, TaskReport
from clawplane.runner.host.doing import Doing, Voices
from clawplane.runner.host.files import edit_file, read_file, write_file
from clawplane.runner.host.house import HostHouse, Refused
from clawplane.runner.host.output import Tell, nobody
from clawplane.runner.host.processes import CannotStart
from clawplane.runner.host.prompts import run_prompt
from clawplane.runner.host.shell import REJECTED, run_command
from clawplane.runner.host.stopping import Stop

_log = logging.getLogger(__name__)


async def execute(
    spec: HostSpec,
    house: HostHouse,
    tell: Tell = nobody,
    *,
    stop: Stop | None = None,
    voices: Voices | None = None,
) -> TaskReport:
    """Do a task and return its report, whose exit code is an int; a failure is a report, too.

    `tell` hears output while it runs, `stop` ends it with a report. Cancelled, it ends what runs and raises.
    """
    doing = Doing(spec=spec, house=house, tell=tell, stop=stop or Stop(), voices=voices or Voices())
    group = spec.type.group
    if group not in house.settings.policy.groups:
        return _failure(f"This runner does no tasks of kind {group!r}.", REJECTED)
    try:
        report = await _TABLE[type(spec.work)](spec.work, doing)
    except CannotStart as failed:
        return _failure(str(failed), -1)
    except Refused as refusal:
        return _failure(refusal.message, REJECTED)
    except ClawplaneError as error:
        return _failure(error.message, 1)
    except Exception as error:  # a defect of ours: the task must still end with a report
        _log.exception("Task %s failed by a defect of the runner", spec.task)
        return _failure(f"The runner failed by a defect ({type(error).__name__}); its log has the details.", 1)
    code = report.exit_code
    return report if type(code) is int else msgspec.structs.replace(report, exit_code=-1)


async def _write(work: FileWrite, doing: Doing) -> TaskReport:
    async with doing.house.file_turn(work.path):
        return await asyncio.to_thread(write_file, work, doing.house.places)


async def _read(work: FileRead, doing: Doing) -> TaskReport:
    return await asyncio.to_thread(read_file, work, doing.house.places, doing.house.settings.file_bytes)


async def _edit(work: FileEdit, doing: Doing) -> TaskReport:
    async with doing.house.file_turn(work.path):
        return await asyncio.to_thread(edit_file, work, doing.house.places, doing.house.settings.file_bytes)


_TABLE: Final[dict[type, Callable[[Any, Doing], Awaitable[TaskReport]]]] = {
    Command: run_command,
    FileWrite: _write,
    FileRead: _read,
    FileEdit: _edit,
    Prompt: run_prompt,
}


def _failure(message: str, code: int) -> TaskReport:
    return TaskReport(exit_code=code, error=message, stderr=message)
