"""Say in plain sentences why an exec ended and what to do about it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from clawplane.domain.sessions import ExecError, ExecResult, ExecStatus
from clawplane.runner.sessions.running import Running
from clawplane.sandbox.resident import MemberEnd

TIMED_OUT: Final = "Error: timeout exceeded"
PYTHON: Final = "The interpreter"
PROGRAM: Final = "The command"

_ADVICE: Final = {
    "timeout": "The time limit of {timeout:g} s was reached: do less at once, or ask for more time (at most 120 s).",
    "cancelled": "It was ended before it had finished: its caller left, or asked for that.",
    "disk": "The workspace is over its quota of {disk} MB: delete files, or create the session with a larger `disk`.",
    "memory": "The memory limit of {memory} MB was reached: process the data in pieces, free what is not needed "
    "(`del`), or create the session with a larger `memory`.",
    "killed": "The session was ended meanwhile.",
}
_ERRORS: Final = {
    "timeout": TIMED_OUT,
    "cancelled": "Error: cancelled",
    "disk": "Error: disk quota exceeded",
    "memory": "Error: memory limit exceeded",
    "killed": "Error: the session was ended",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """The verdict on an exec."""

    status: ExecStatus
    error: str | None = None
    detail: ExecError | None = None
    exit_code: int | None = None


def stopped(running: Running) -> tuple[ExecStatus, str]:
    """Return status and error of an exec that we have ended, and note why."""
    cause = running.cause or "killed"
    options = running.options
    running.notes.append(
        _ADVICE[cause].format(timeout=running.request.timeout, disk=options.disk, memory=options.memory)
    )
    return cause, _ERRORS[cause]


def death(end: MemberEnd, running: Running, who: str) -> tuple[ExecStatus, str]:
    """Return status and error of a process that has died without us."""
    match end.reason:
        case "memory":
            running.cause = "memory"
            return stopped(running)
        case "killed" | "lost":
            running.cause = "killed"
            return stopped(running)
        case "signal":
            name = signal_name(end.signal)
            if end.signal == signal.SIGXFSZ:
                running.cause = "disk"
                return stopped(running)
            return "exited", f"Error: {who[0].lower()}{who[1:]} was killed by {name}"
        case "exit":
            return "exited", f"Error: {who[0].lower()}{who[1:]} ended with exit code {end.exit_code}"


def unheard(result: ExecResult) -> str:
    """Say how an exec ended whose caller could not be told, because the link was cut meanwhile."""
    notes = " ".join(result.notes)
    lost = "The link to the control plane was cut"
    return f"{lost} while exec {result.exec_id} ran; it ended with the status {result.status}. {notes}".rstrip()


def never_begun(exec_id: str) -> str:
    """Say that an exec waited in vain."""
    return f"The link to the control plane was cut while exec {exec_id} waited for its turn; it was not begun."


def signal_name(number: int | None) -> str:
    """Return a signal's name."""
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
