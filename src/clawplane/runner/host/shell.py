"""Run one shell command: the machine's own shell with separate arguments, nothing in between (10.4 of the contract)."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from clawplane.domain.host_tasks import Command, TaskReport
from clawplane.runner.host import private
from clawplane.runner.host.doing import Doing
from clawplane.runner.host.environment import with_task_variables
from clawplane.runner.host.processes import Ended, Program
from clawplane.runner.host.shells import shell_argv

_LONGEST_ARGUMENT: Final = 120 << 10
"""Linux takes 128 KiB in one argument; what is longer is read from a file."""
REJECTED: Final = 126


async def run_command(work: Command, doing: Doing) -> TaskReport:
    """Run a command to its end; raises CannotStart, and ClawplaneError for what cannot be done."""
    spec, house = doing.spec, doing.house
    if not work.command.strip():
        return TaskReport(exit_code=1, error="Empty command", stderr="Empty command", duration=0)
    if "\0" in work.command:
        return TaskReport(exit_code=1, error="The command holds a NUL character", duration=0)
    if refusal := house.policy.refuses(work.command, spec.env):
        return TaskReport(exit_code=REJECTED, error=refusal, stderr=refusal, duration=0)
    cwd = house.directory_of(spec.cwd)
    environment = {**with_task_variables(house.environment, spec.env), "PWD": str(cwd)}
    with _written(work.command, house.scratch) as command:
        ended = await house.processes.run(
            Program(shell_argv(house.shell, command), cwd, environment),
            seconds=(work.timeout if work.timeout > 0 else house.settings.timeout_ms) / 1000,
            tell=doing.tell,
            stop=doing.stop,
            spill=lambda stream: house.spills.open(spec.task, stream),
        )
    return command_report(ended)


def command_report(ended: Ended) -> TaskReport:
    """Return what is reported of a command; output is not trimmed."""
    code, error, stderr, metadata = ended.code, None if ended.code == 0 else f"Exit code {ended.code}", "", {}
    match ended.how:
        case "timeout":
            code, error, stderr = -1, "Command timeout", "Timeout"
        case "cancel":
            code, error, stderr = -1, "Cancelled", "Cancelled"
        case "leave" | "drop":
            code = code or 143
            error, stderr = f"Exit code {code}", "The runner was stopped."
            metadata = {"signal": ended.signal or "SIGTERM"}
        case "exit":
            pass
    return TaskReport(
        stdout=ended.stdout,
        stderr=ended.stderr or stderr,
        exit_code=code,
        error=error,
        duration=ended.duration,
        metadata={**ended.metadata, **metadata},
    )


@contextmanager
def _written(command: str, scratch: Path) -> Iterator[str]:
    """Yield what the shell is given: the command, or for one that is too long a word that reads it from a file."""
    if len(command) * 4 <= _LONGEST_ARGUMENT or len(command.encode("utf-8", "replace")) <= _LONGEST_ARGUMENT:
        yield command
        return
    path = scratch / f"command-{secrets.token_hex(8)}"
    private.write(path, command.encode("utf-8", "replace"))
    try:
        yield f". {shlex.quote(str(path))}"
    finally:
        path.unlink(missing_ok=True)
