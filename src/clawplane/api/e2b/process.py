"""The daemon's remote calls for processes: start, connect, list, signal; input and terminals are refused by name.

A process is a shell exec of its session: it shares the exec's bounds (at most 120 s, output bounded on the way) and its
exactness. What E2B's clients run is `/bin/bash -l -c COMMAND`, and COMMAND is what is executed; any other program is
quoted into one line.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from starlette.responses import Response

from clawplane.api.e2b import envelopes, paths
from clawplane.api.e2b.answers import as_json, outside, sentence, status_of
from clawplane.api.e2b.commands import Command, Commands, Order
from clawplane.api.e2b.gate import Handler, Visit
from clawplane.api.e2b.streams import Paced
from clawplane.api.replies import ClosingStream
from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.domain.ids import new_ulid
from clawplane.domain.session_rules import check_code, check_environment
from clawplane.domain.sessions import MAX_TIMEOUT, ExecEvent, ExecRequest, ExecResult

_KEEPALIVE: Final = 50.0
_SHELLS: Final = ("/bin/bash", "bash", "/bin/sh", "sh")
_SIGNALS: Final = {"SIGNAL_SIGKILL": 9, "SIGNAL_SIGTERM": 15}


class ProcessConfig(msgspec.Struct, frozen=True):
    """What to run."""

    cmd: str = ""
    args: list[str] = []
    envs: dict[str, str] = {}
    cwd: str = ""


class Start(msgspec.Struct, frozen=True):
    """The order to start a process."""

    process: ProcessConfig = ProcessConfig()
    pty: dict[str, Any] | None = None
    tag: str = ""
    stdin: bool = False


class Selector(msgspec.Struct, frozen=True):
    """A process by its id or tag."""

    pid: int | None = None
    tag: str | None = None


class OneProcess(msgspec.Struct, frozen=True):
    """A question about one process."""

    process: Selector = Selector()


class Signal(msgspec.Struct, frozen=True):
    """The order to signal a process; the signal by name or number."""

    process: Selector = Selector()
    signal: str | int = 0


def handlers(commands: Commands) -> dict[str, Handler]:
    """Return the remote calls by name."""

    async def start(visit: Visit) -> Response:
        order = await visit.call(Start)
        if order.pty is not None:
            raise outside("terminals (PTY)", "Use commands.run().")
        if order.stdin:
            raise outside("stdin of a running command", "Put the input into a file and redirect it: `cmd < file`.")
        config = order.process
        command = commands.start(visit.caller, visit.session.id, _order(visit, config, order.tag))
        return await _stream(visit, commands, command)

    async def connect(visit: Visit) -> Response:
        selected = (await visit.call(OneProcess)).process
        return await _stream(visit, commands, commands.find(visit.session.id, pid=selected.pid, tag=selected.tag))

    async def list_all(visit: Visit) -> Response:
        await visit.call(OneProcess)
        return as_json({"processes": [_shown(command) for command in commands.all(visit.session.id)]})

    async def signal(visit: Visit) -> Response:
        order = await visit.call(Signal)
        number = order.signal if isinstance(order.signal, int) else _SIGNALS.get(order.signal)
        if number not in _SIGNALS.values():
            raise InvalidArgument(f"signal: {order.signal!r:.60} is not offered.", hint="Use SIGTERM or SIGKILL.")
        command = commands.find(visit.session.id, pid=order.process.pid, tag=order.process.tag)
        await commands.interrupt(visit.caller, command, kill=number == _SIGNALS["SIGNAL_SIGKILL"])
        return as_json({})

    async def refuse_input(visit: Visit) -> Response:
        raise outside("stdin of a running command", "Put the input into a file and redirect it: `cmd < file`.")

    async def refuse_terminal(visit: Visit) -> Response:
        raise outside("terminals (PTY)", "Use commands.run().")

    return {
        "Start": start,
        "Connect": connect,
        "List": list_all,
        "SendSignal": signal,
        "SendInput": refuse_input,
        "StreamInput": refuse_input,
        "CloseStdin": refuse_input,
        "Update": refuse_terminal,
    }


def _order(visit: Visit, config: ProcessConfig, tag: str) -> Order:
    if not config.cmd:
        raise InvalidArgument("process.cmd: it is missing.")
    arguments = config.args
    if config.cmd in _SHELLS and len(arguments) >= 2 and arguments[-2] == "-c" and arguments[:-2] in ([], ["-l"]):
        code = arguments[-1]
    else:
        code = shlex.join([config.cmd, *arguments])
    request = ExecRequest(
        id=new_ulid(visit.house.clock.now_ms()),
        tool="shell",
        code=check_code(code, "cmd"),
        timeout=_seconds(visit),
        environment=check_environment(config.envs, "envs"),
        directory=paths.inner(config.cwd, "cwd"),
        detached=True,
        raw=True,
    )
    return Order(program=config.cmd, arguments=arguments, tag=tag, request=request)


def _seconds(visit: Visit) -> float:
    """Return the time limit that a call announces, within ours."""
    text = visit.request.headers.get("connect-timeout-ms", "")
    if not text:
        return MAX_TIMEOUT
    if not (text.isdecimal() and len(text) <= 10 and int(text) > 0):
        raise InvalidArgument(f"connect-timeout-ms: {text[:20]!r} is no time.", hint="Use milliseconds above 0.")
    return min(MAX_TIMEOUT, int(text) / 1000)


async def _stream(visit: Visit, commands: Commands, command: Command) -> Response:
    text = visit.request.headers.get("keepalive-ping-interval", "")
    every = float(text) if text.isdecimal() and 0 < len(text) < 4 and int(text) else _KEEPALIVE
    said = Paced(commands.heard(command, commands.join(command)), every=every)
    return ClosingStream(_envelopes(command, said), media_type=envelopes.MEDIA_TYPE)


async def _envelopes(command: Command, said: Paced[ExecEvent | ExecResult]) -> AsyncGenerator[bytes, None]:
    streamed: set[str] = set()
    async with aclosing(said.items()) as items:
        yield _event({"start": {"pid": command.pid}})
        try:
            async for item in items:
                if item is None:
                    yield _event({"keepalive": {}})
                elif isinstance(item, ExecResult):
                    for name, text in (("stdout", item.stdout), ("stderr", item.stderr)):
                        if text and name not in streamed:
                            yield _output(name, text)
                    if item.status == "timeout":
                        yield envelopes.end("deadline_exceeded", " ".join([item.error or "", *item.notes]))
                        return
                    yield _end(command, item)
                elif item.type in ("stdout", "stderr"):
                    streamed.add(item.type)
                    yield _output(item.type, item.text)
        except ClawplaneError as error:  # the head of the answer is out
            yield envelopes.end(status_of(error)[1], sentence(error))
            return
    yield envelopes.end()


def _end(command: Command, result: ExecResult) -> bytes:
    if result.exit_code is not None and not command.killed:
        ended: dict[str, Any] = {"exitCode": result.exit_code, "exited": True}
        ended["status"] = f"exit status {result.exit_code}"
    else:
        status = "signal: killed" if command.killed else f"{result.status}: {result.error or ''}"
        ended = {"exitCode": -1, "exited": False, "status": status}
    if result.error is not None:
        ended["error"] = "signal: killed" if command.killed else " ".join([result.error, *result.notes])
    return _event({"end": ended})


def _output(stream: str, text: str) -> bytes:
    return _event({"data": {stream: base64.b64encode(text.encode("utf-8", "replace")).decode()}})


def _event(event: dict[str, Any]) -> bytes:
    return envelopes.envelope({"event": event})


def _shown(command: Command) -> dict[str, Any]:
    order = command.order
    config = {"cmd": order.program, "args": order.arguments, "envs": order.request.environment}
    if order.request.directory:
        config["cwd"] = paths.outer(order.request.directory)
    shown: dict[str, Any] = {"config": config, "pid": command.pid}
    if order.tag:
        shown["tag"] = order.tag
    return shown
