"""Say in one sentence why a Worker ended: from the sandbox's verdict and, when it failed by itself, its last words."""

from __future__ import annotations

import re
import signal
from collections import deque
from typing import Final

from clawplane.domain.leases import Outcome
from clawplane.sandbox.policy import MIB, Limits, Verdict

_WORDS: Final = 400
_KEPT_LINES: Final = 60
_ERROR_LINE: Final = re.compile(
    r"(?:Uncaught )?(?:[A-Za-z_][\w.$]*)?(?:Error|Exception|Exit|Interrupt|Warning)(?: \[\w+\])?(?:: .*)?"
    r"|panic: .*|fatal error: .*"
)


class LastWords:
    """The end of what a Worker wrote to stderr, for the one line that says what went wrong."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def hear(self, line: str) -> None:
        """Remember a line."""
        if line.strip():
            self._lines.append(line[:_WORDS])

    def sentence(self) -> str:
        """Return the line that names the error: of a traceback the last, of a stack the first, else the last line."""
        lines = list(self._lines)
        if not lines:
            return ""
        starts = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
        if starts:
            after = [line for line in lines[starts[-1] + 1 :] if not line[0].isspace()]
            if after:
                return after[-1].strip()
        named = [line for line in lines if _ERROR_LINE.fullmatch(line.strip())]
        return (named[-1] if named else lines[-1]).strip()


def outcome(verdict: Verdict, limits: Limits, words: LastWords) -> Outcome:
    """Return what is reported of an attempt."""
    return Outcome(
        succeeded=verdict.succeeded,
        reason=verdict.reason,
        exit_code=verdict.exit_code,
        signal=verdict.signal,
        message=_message(verdict, limits, words),
        wall_ms=verdict.wall_ms,
        cpu_ms=verdict.cpu_ms,
        peak_memory=verdict.peak_memory,
    )


def _message(verdict: Verdict, limits: Limits, words: LastWords) -> str:
    match verdict.reason:
        case "exit":
            return "" if verdict.exit_code == 0 else _with(f"exited with code {verdict.exit_code}", words)
        case "signal":
            return _with(f"was killed by {_signal_name(verdict.signal)}", words)
        case "timeout":
            return f"timed out after {limits.wall:g} s"
        case "memory":
            return f"exceeded its memory limit of {(limits.memory or 0) // MIB} MB"
        case "processes":
            return f"exceeded its limit of {limits.processes} processes"
        case "output":
            return f"wrote more than {(limits.output or 0) // MIB} MB to stdout and stderr"
        case "cpu":
            return f"used more than {limits.cpu_time or 0:g} s of CPU time"
        case "aborted":
            return "was aborted"
        case "setup":
            return verdict.detail or "could not be started"


def _with(what: str, words: LastWords) -> str:
    said = words.sentence()
    return f"{what}: {said}" if said else what


def _signal_name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
