"""Run a shell command or a Node program in a session's sandbox, and say how that ended.

Both get their text as an argument, so that standard input is the caller's; a text too long for an argument comes on
standard input instead. Programs that a command leaves behind (`server &`) live on until the
session is reset or ends; when the command is ended by a limit, they end with it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Any, Final

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.sessions import ExecRequest
from clawplane.runner.sessions.background import Background
from clawplane.runner.sessions.residence import Residence
from clawplane.runner.sessions.running import Running
from clawplane.runner.sessions.words import PROGRAM, Ended, death, signal_name, stopped
from clawplane.runner.sessions.world import WORKSPACE
from clawplane.runner.workspace_paths import parse

_LONGEST_ARGUMENT: Final = 120 << 10
"""A single argument of exec is at most 128 KiB."""
_NODE_FLAGS: Final = ("--no-warnings",)


async def execute_command(
    residence: Residence, running: Running, background: Background, *, node: str, environment: Mapping[str, str]
) -> Ended:
    """Run `running.request.code`; what it leaves running is given to `background`.

    Raises InvalidArgument when nothing could be started.
    """
    request = running.request
    argv, stdin = _program(request, node)
    directory = f"{WORKSPACE}/{request.directory}" if parse(request.directory, "directory") else WORKSPACE
    member, pipes = await residence.start_program(
        argv, stdin=stdin, environment={**environment, **request.environment}, directory=directory.removesuffix("/")
    )
    running.output.attach(pipes)
    killing: set[asyncio.Task[None]] = set()

    def kill() -> None:
        killing.add(asyncio.create_task(residence.resident.kill_tree(member)))

    reading: asyncio.Task[Any] = asyncio.create_task(pipes.read(running.output.take))
    running.begin(kill=kill)
    try:
        end = await member.wait()
        if killing:
            await asyncio.gather(*killing, return_exceptions=True)
    finally:
        running.over()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        running.output.take_waiting()
        background.add(member, pipes)
    if running.cause is not None:
        status, error = stopped(running)
        return Ended(status, error, exit_code=end.exit_code)
    if end.reason == "exit":
        failed = f"exit code {end.exit_code}" if end.exit_code else None
        return Ended("error" if failed else "ok", failed, exit_code=end.exit_code)
    if end.reason == "signal" and end.signal != signal.SIGXFSZ:
        code = 128 + (end.signal or 0)
        running.notes.append(f"The command was killed by {signal_name(end.signal)}.")
        return Ended("error", f"exit code {code}", exit_code=code)
    status, error = death(end, running, PROGRAM)
    return Ended(status, error, exit_code=end.exit_code)


def _program(request: ExecRequest, node: str) -> tuple[list[str], bytes]:
    """Return the arguments and the standard input for a request."""
    code, stdin = request.code, request.stdin.encode("utf-8", "surrogateescape")
    if "\0" in code:
        raise InvalidArgument("`code` contains a NUL character.", hint="Remove it.")
    encoded = len(code.encode("utf-8", "replace"))
    if request.tool == "shell":
        if encoded <= _LONGEST_ARGUMENT:
            return ["bash", "-c", code, "bash"], stdin
        if stdin:
            raise InvalidArgument("`code` is too long to be given together with `stdin`.", hint="Write it to a file.")
        return ["bash", "-s"], code.encode("utf-8", "replace")
    if encoded <= _LONGEST_ARGUMENT:
        return [node, *_NODE_FLAGS, "--eval", code], stdin
    if stdin:
        raise InvalidArgument("`code` is too long to be given together with `stdin`.", hint="Write it to a file.")
    return [node, *_NODE_FLAGS, "-"], code.encode("utf-8", "replace")
