"""Try the attacks, each in a sandbox of its own, and look at the host before and after.

One at a time by default, because some of them measure time. Several at once are quicker; what was only late or ran out
of its time then is tried again alone before it counts as broken. An attack that got what it wanted counts at once.
After every attack the host is compared with what it was: a canary file, our own mounts, System V objects. A change
there counts as broken whatever the attack itself said.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final, Protocol

from clawplane.sandbox.launch import Sandbox
from clawplane.sandbox.policy import Policy
from clawplane.sandbox.probe import probe
from clawplane.sandbox.process import Process
from clawplane.sandbox.selftest import files, kernel, limits
from clawplane.sandbox.selftest.items import LATE, PRELUDE, Attack, Elsewhere, Outcome
from clawplane.sandbox.selftest.report import Report, Result, Status
from clawplane.sandbox.selftest.scratch import scratch

_FIRST_UID: Final = 300_000
"""Not the range of a runner that may be at work on this host."""
_UIDS: Final = 64
_SHOWN: Final = 300
_TRIES_ALONE: Final = 3
_SLOW: Final = (LATE, "it ended by timeout", "it said nothing (ended by timeout")
"""How words of a judge begin that may mean nothing but a busy host."""
_NICE: Final = ("nice", "-n", "5")
"""How attacks are started while others work on the host."""
_KEPT: Final = 1 << 20
_CANARY: Final = "This file belongs to the host. Nothing that runs in a sandbox may see it or change it.\n"

_SERVER: Final = "`clawplane selftest` without --sandbox-only: it needs a control plane"
_SESSION: Final = "`clawplane selftest` without --sandbox-only: it needs a live session"
_ELSEWHERE: Final = (
    Elsewhere(1, "downloads a symbolic link", _SESSION),
    Elsewhere(2, "uses a link as parent directory", _SESSION),
    Elsewhere(3, "writes through a link", _SESSION),
    Elsewhere(4, "swaps file and link in a race", _SESSION),
    Elsewhere(6, "sends hostile paths to the API", _SERVER),
    Elsewhere(19, "patches the memory of its interpreter", _SESSION),
    Elsewhere(31, "finds a host that cannot isolate", "`clawplane doctor`, and every start of a runner"),
    Elsewhere(33, "leaks through DNS", _SESSION),
    Elsewhere(34, "abuses the proxy", _SESSION),
    Elsewhere(35, "listens", _SESSION),
    Elsewhere(36, "exceeds its traffic", _SESSION),
    Elsewhere(
        37, "steals secret placeholders", "nowhere: a session is given no secret, so there is nothing in its place"
    ),
    Elsewhere(43, "prints confusing bytes", _SERVER),
    Elsewhere(44, "returns rich output", _SESSION),
    Elsewhere(45, "sends archive bombs", _SERVER),
    Elsewhere(50, "races the API", _SERVER),
    Elsewhere(51, "defeats idle sleep", _SESSION),
    Elsewhere(54, "profits from a killed runner", _SERVER),
    Elsewhere(55, "prints protocol frames", _SESSION),
    Elsewhere(58, "tampers with the interpreter", _SESSION),
    Elsewhere(59, "tampers, and comes back", _SESSION),
    Elsewhere(60, "is an honest user", _SESSION),
    Elsewhere(61, "tampers with a state snapshot", _SESSION),
    Elsewhere(62, "contaminates the zygote", _SESSION),
    Elsewhere(63, "guesses ids", _SERVER),
    Elsewhere(64, "injects arguments", _SERVER),
    Elsewhere(65, "injects through environment values", _SESSION),
    Elsewhere(66, "uploads a malicious package", _SERVER),
    Elsewhere(67, "injects into logs and terminals", _SERVER),
    Elsewhere(69, "bombs the HTTP API", _SERVER),
    Elsewhere(70, "measures time between sessions", "the threat model: documented, not tested"),
)

Told = Callable[[Result], None]


class Attacked(Protocol):
    """What is attacked: an open sandbox, or whatever stands in for one."""

    @property
    def cgroup_mode(self) -> str:
        """Say where memory and process limits come from."""
        ...

    async def run(self, policy: Policy, argv: Sequence[str]) -> Process:
        """Start a program."""
        ...


def attacks(canary: str) -> list[Attack]:
    """Return every attack that needs a sandbox and nothing else, by number."""
    found = [*files.attacks(canary), *kernel.attacks(), *limits.attacks()]
    return sorted(found, key=lambda each: each.number)


async def attack(
    tell: Told,
    *,
    only_critical: bool = False,
    attacks: Callable[[str], Sequence[Attack]] = attacks,
    isolation: Attacked | None = None,
    at_once: int = 1,
) -> Report:
    """Try all attacks on an open sandbox, by default on one that is opened for it; `tell` hears each result once.

    Raises SandboxUnavailable on a host that cannot isolate at all, ValueError for an `isolation` that is no sandbox
    when an attack would harm the host there.
    """
    with scratch() as kept:
        canary = _canary(kept.path)
        chosen = [each for each in attacks(str(canary)) if each.critical or not only_critical]
        opened = isolation is None
        sandbox = isolation or await Sandbox.open(
            state_directory=kept.path / "state", first_uid=_FIRST_UID, uid_count=_UIDS
        )
        try:
            if not isinstance(sandbox, Sandbox) and not all(each.harmless for each in chosen):
                raise ValueError("these attacks would harm a host without a sandbox")
            results = [*await _all(sandbox, chosen, canary, tell, at_once), *_not_here()]
            mode = sandbox.cgroup_mode
        finally:
            if opened and isinstance(sandbox, Sandbox):
                await sandbox.close()
    return Report(
        user="root" if os.geteuid() == 0 else f"user {os.geteuid()}",
        cgroup_mode=mode,
        features=[asdict(finding) for finding in await asyncio.to_thread(probe)] if opened else [],
        results=sorted(results, key=lambda each: each.number),
    )


def _canary(directory: Path) -> Path:
    directory.chmod(0o755)
    canary = directory / "canary"
    canary.write_text(_CANARY, encoding="ascii")
    canary.chmod(0o600)
    return canary


async def _all(sandbox: Attacked, chosen: Sequence[Attack], canary: Path, tell: Told, at_once: int) -> list[Result]:
    if at_once == 1:
        return [await _told_of(_one(sandbox, each, canary), tell) for each in chosen]
    seats = asyncio.Semaphore(at_once)

    async def seated(each: Attack) -> tuple[Attack, Result]:
        async with seats:
            return each, await _one(sandbox, each, canary, gently=True)

    waiting_first = sorted(chosen, key=lambda each: each.limits.wall or 0.0)  # those that are to reach a short limit
    tried = await asyncio.gather(*(seated(each) for each in waiting_first))
    results = []
    for each, first in tried:
        result = first
        for _ in range(_TRIES_ALONE):
            if result.status == "broken" and result.happened.startswith(_SLOW):
                result = await _one(sandbox, each, canary)
        results.append(result)
        tell(result)
    return results


async def _told_of(work: Awaitable[Result], tell: Told) -> Result:
    result = await work
    tell(result)
    return result


async def _one(sandbox: Attacked, each: Attack, canary: Path, *, gently: bool = False) -> Result:
    if each.needs and shutil.which(each.needs) is None:
        return _result(each, "not tried", f"{each.needs} is not installed", 0)
    before = _host(canary)
    began = time.monotonic()
    outcome = await _outcome(sandbox, each, gently=gently)
    milliseconds = round((time.monotonic() - began) * 1000)
    wrong = each.judge(outcome) if outcome.verdict.reason != "setup" else outcome.verdict.detail
    after = _host(canary)
    if before != after:
        changed = [name for name in before if before[name] != after[name]]
        wrong = f"{wrong}; the host changed: {', '.join(changed)}".lstrip("; ")
    happened = wrong or _told(outcome)
    return _result(each, "broken" if wrong else "held", happened[:_SHOWN], milliseconds)


async def _outcome(sandbox: Attacked, each: Attack, *, gently: bool) -> Outcome:
    policy = Policy(
        mounts=each.mounts,
        working_directory="/tmp",  # the guest's own
        limits=each.limits,
    )
    argv = [*(each.argv or (_interpreter(), "-I", "-c", PRELUDE + each.code))]
    process = await sandbox.run(policy, [*_NICE, *argv] if gently else argv)
    texts = {"stdout": bytearray(), "stderr": bytearray()}
    async for stream, block in process.output():
        texts[stream] += block[: max(0, _KEPT - len(texts[stream]))]
    verdict = await process.wait()
    out, err = (bytes(texts[name]).decode(errors="replace") for name in ("stdout", "stderr"))
    return Outcome(out, err, verdict, sandbox.cgroup_mode != "none")


def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _host(canary: Path) -> dict[str, str]:
    """Return what an attack must not change."""
    found = canary.stat()
    shared = [Path("/proc/sysvipc", name) for name in ("shm", "msg", "sem")]
    return {
        "the canary file": f"{found.st_mode} {found.st_uid} {found.st_nlink} {found.st_mtime_ns} {canary.read_text()}",
        "our mounts": Path("/proc/self/mountinfo").read_text(),
        "System V objects": " ".join(str(len(path.read_text().splitlines())) for path in shared if path.exists()),
    }


def _told(outcome: Outcome) -> str:
    verdict = outcome.verdict
    end = f"exit code {verdict.exit_code}" if verdict.reason == "exit" else f"ended by {verdict.reason}"
    said = (outcome.output.strip().splitlines() or [""])[-1]
    return f"{said} ({end})".strip()


def _not_here() -> list[Result]:
    return [
        Result(
            number=each.number,
            title=each.title,
            expected="tried elsewhere",
            status="not tried",
            happened=each.where,
            critical=False,
        )
        for each in _ELSEWHERE
    ]


def _result(each: Attack, status: Status, happened: str, milliseconds: int) -> Result:
    return Result(
        number=each.number,
        title=each.title,
        expected=each.expected,
        status=status,
        happened=happened,
        critical=each.critical,
        milliseconds=milliseconds,
    )
