"""What an attack is: a payload, what is expected of the sandbox, and the judgement of what happened.

A payload is Python that runs in the sandbox after `PRELUDE` and says one JSON value on its last line, or it is a
command of its own. A judge looks at that value and at the verdict from outside, and returns what is wrong, "" for
nothing.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from clawplane.sandbox.policy import MIB, Limits, Mount, Verdict
from clawplane.sandbox.syscall_table import CALLS

NUMBERS: Final = {
    call.name: number for call in CALLS if isinstance(number := getattr(call, platform.machine(), None), int)
}
"""System calls of this machine by name."""

PRELUDE: Final = '''
import ctypes, errno, json, os, signal, socket, subprocess, sys, time
_libc = ctypes.CDLL(None, use_errno=True)
def system_call(number, *arguments):
    """Name of the error a raw system call ends with, or "done"."""
    values = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if _libc.syscall(ctypes.c_long(number), *values) >= 0:
        return "done"
    return errno.errorcode[ctypes.get_errno()]
def tried(function, *arguments, **options):
    """Name of the error a call ends with, or "done"."""
    try:
        function(*arguments, **options)
    except OSError as problem:
        return errno.errorcode.get(problem.errno, str(problem))
    return "done"
def say(value):
    print(json.dumps(value), flush=True)
'''

QUICK: Final = Limits(memory=256 * MIB, wall=20.0, grace=0.3, processes=64, output=MIB)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack came to: its output, the verdict, and whether memory and processes are limited by cgroups."""

    output: str
    errors: str
    verdict: Verdict
    cgroups: bool

    def said(self) -> Any:
        """Return the JSON value of the last line; None when there is none."""
        lines = self.output.strip().splitlines()
        try:
            return json.loads(lines[-1]) if lines else None
        except ValueError:
            return None


Judge = Callable[[Outcome], str]
LATE: Final = "it ended after"
"""How a judge begins who has nothing to say against an attack but that it took too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack. `number` is its item in the attack list; a `critical` one must fail before sessions are offered."""

    number: int
    title: str
    expected: str
    judge: Judge
    code: str = ""
    argv: Sequence[str] = ()
    limits: Limits = QUICK
    mounts: tuple[Mount, ...] = ()
    critical: bool = True
    harmless: bool = False
    """It only looks: what it does may be done without a sandbox, too."""
    needs: str = ""
    """A program without which this attack cannot be tried."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An item of the list that needs more than a sandbox, and where it is tried."""

    number: int
    title: str
    where: str = field(default="the project's own tests: it needs the control plane")


def calls(*names_and_arguments: tuple[str, str]) -> str:
    """Return code that says a list of errors, one per system call that this machine has."""
    parts = [
        f"system_call({NUMBERS[name]}{', ' if arguments else ''}{arguments})"
        for name, arguments in names_and_arguments
        if name in NUMBERS
    ]
    return f"say([{', '.join(parts)}])"


def refused(*codes: str) -> Judge:
    """Expect a list of errors, each one of `codes`."""

    def judge(outcome: Outcome) -> str:
        answers = outcome.said()
        if not isinstance(answers, list) or not answers:
            return _silent(outcome)
        allowed: Collection[str] = codes
        wrong = [answer for answer in answers if answer not in allowed]
        return f"it got {', '.join(map(str, wrong[:5]))}" if wrong else ""

    return judge


def says(expected: Any) -> Judge:
    """Expect one JSON value."""

    def judge(outcome: Outcome) -> str:
        answer = outcome.said()
        if answer is None and expected is not None:
            return _silent(outcome)
        return "" if answer == expected else f"it said {json.dumps(answer)[:200]}"

    return judge


def ended_by(*reasons: str, within_ms: int | None = None, polled: Collection[str] = ()) -> Judge:
    """Expect an end for one of `reasons`; without cgroups also for one of `polled`, but then never a good end."""

    def judge(outcome: Outcome) -> str:
        verdict = outcome.verdict
        allowed = {*reasons, *(polled if not outcome.cgroups else ())}
        if verdict.reason not in allowed:
            return f"it ended by {verdict.reason} (exit code {verdict.exit_code})"
        if verdict.succeeded and "exit" not in reasons:
            return "it ended well"
        if within_ms is not None and verdict.wall_ms > within_ms:
            return f"{LATE} {verdict.wall_ms} ms"
        return ""

    return judge


def prints(*absent: str) -> Judge:
    """Expect a good end, and none of these texts in the output."""

    def judge(outcome: Outcome) -> str:
        if outcome.verdict.reason not in ("exit", "signal"):
            return f"it ended by {outcome.verdict.reason}"
        found = [text for text in absent if text in outcome.output]
        return f"it printed {', '.join(found)}" if found else ""

    return judge


def _silent(outcome: Outcome) -> str:
    tail = (outcome.errors.strip().splitlines() or [outcome.verdict.detail or "nothing"])[-1][:200]
    return f"it said nothing (ended by {outcome.verdict.reason}: {tail})"
