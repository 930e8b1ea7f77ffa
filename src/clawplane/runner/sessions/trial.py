"""Attack this host's sandbox before anybody's code runs in a session on it, and remember that it held.

Theory of operation. The critical items of the selftest are tried in the runner's own sandbox, several at once, in the
background of a start. Until they have failed, no session is opened (`passed` waits); when one succeeds, sessions are
refused with its name, and the control plane is told, so that nothing is offered here any more. A pass is remembered in
a file of the runner's data directory together with the facts it depends on, and counts for as long as they are the
same: a start is delayed by it once. A failure is remembered for the operator only; it is tried again after a while and
at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

import clawplane
from clawplane.domain.clock import Clock
from clawplane.domain.errors import Unavailable
from clawplane.sandbox.launch import Sandbox, SandboxUnavailable
from clawplane.sandbox.probe import Finding
from clawplane.sandbox.selftest import Report, attack

PROGRESS: Final = "This host's isolation is being tried before sessions start on it; it takes seconds, once."
_AT_ONCE: Final = 3
_RETRY_SECONDS: Final = 600.0
_SHOWN_ITEMS: Final = 3
_HINT: Final = (
    "Run `clawplane selftest` on the runner's host, as the runner's user, for all items, and `clawplane doctor` for "
    "what to mend; then start the runner again."
)
_SETTINGS: Final = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/yama/ptrace_scope",
    "kernel/core_pattern",
    "kernel/io_uring_disabled",
    "user/max_user_namespaces",
)
_STATUS: Final = ("CapEff", "NoNewPrivs", "Seccomp")

_log = logging.getLogger(__name__)


class Unproven(Unavailable):
    """A critical item of the selftest has succeeded on this host."""

    default_hint = _HINT


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the attack list that succeeded."""

    number: int
    title: str
    happened: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the last trial on this host, and what it depended on; `at` in milliseconds."""

    facts: dict[str, str]
    at: int
    broken: tuple[Broken, ...] = ()
    failure: str = ""
    """Why it could not be tried to its end."""

    @property
    def reason(self) -> str:
        """Say in one sentence why there are no sessions; "" when there can be."""
        if self.failure:
            return f"Code sessions are refused on this runner: its isolation could not be tried: {self.failure}."
        if not self.broken:
            return ""
        items = [f"{each.number} ({each.title}: {each.happened})" for each in self.broken[:_SHOWN_ITEMS]]
        more = f" and {len(self.broken) - _SHOWN_ITEMS} more" if len(self.broken) > _SHOWN_ITEMS else ""
        return f"Code sessions are refused on this runner: its host fails selftest item {', '.join(items)}{more}."


class Trial:
    """Whether this host holds what sessions are promised. `told` hears the reason against it, "" when there is none."""

    def __init__(
        self,
        sandbox: Sandbox,
        memory: Path,
        *,
        clock: Clock,
        attacks: Callable[[Sandbox], Awaitable[Report]] | None = None,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._sandbox = sandbox
        self._memory = memory
        self._clock = clock
        self._attacks = attacks or _critical
        self._retry_seconds = retry_seconds
        self._settled = asyncio.Event()
        self._listener: Callable[[str], None] = lambda reason: None
        self._task: asyncio.Task[None] | None = None
        self.reason = ""
        """Why sessions are refused; "" also while it is not known."""

    @property
    def under_way(self) -> bool:
        """Tell whether it is not known yet."""
        return not self._settled.is_set()

    def listen(self, listener: Callable[[str], None]) -> None:
        """Tell `listener` the reason whenever it changes."""
        self._listener = listener

    def begin(self) -> None:
        """Begin to try, unless this host has passed as it is."""
        facts = facts_of(self._sandbox)
        known = remembered(self._memory)
        if known is not None and not known.reason and known.facts == facts:
            self._settled.set()
        elif self._task is None:
            self._task = asyncio.create_task(self._try(facts))

    async def passed(self) -> None:
        """Wait until the host has held; raises Unproven when it has not."""
        await self._settled.wait()
        if self.reason:
            raise Unproven(self.reason)

    async def close(self) -> None:
        """Abandon it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _try(self, facts: dict[str, str]) -> None:
        while True:
            verdict = await self._verdict(facts)
            await asyncio.to_thread(_remember, self._memory, verdict)
            if verdict.reason:
                _log.error("%s %s", verdict.reason, _HINT)
            else:
                _log.info("The attack list has failed on this host: sessions are open")
            changed, self.reason = verdict.reason != self.reason, verdict.reason
            self._settled.set()
            if changed:
                self._listener(self.reason)
            if not self.reason:
                return
            await asyncio.sleep(self._retry_seconds)

    async def _verdict(self, facts: dict[str, str]) -> Verdict:
        try:
            report = await self._attacks(self._sandbox)
        except (SandboxUnavailable, OSError) as error:
            return Verdict(facts=facts, at=self._clock.now_ms(), failure=str(error).splitlines()[0])
        except Exception as error:  # whatever it was: what was not tried to its end has not held
            _log.exception("The selftest ended by a defect")
            return Verdict(facts=facts, at=self._clock.now_ms(), failure=f"a defect ({type(error).__name__})")
        broken = tuple(
            Broken(number=each.number, title=each.title, happened=each.happened)
            for each in report.results
            if each.critical and each.status == "broken"
        )
        return Verdict(facts=facts, at=self._clock.now_ms(), broken=broken)


async def _critical(sandbox: Sandbox) -> Report:
    return await attack(lambda result: None, only_critical=True, isolation=sandbox, at_once=_AT_ONCE)


def facts_of(sandbox: Sandbox) -> dict[str, str]:
    """Return what a verdict depends on: kernel, release, user, and the settings that isolation rests on."""
    status = dict(line.split(":\t", 1) for line in _text("/proc/self/status").splitlines() if ":\t" in line)
    return {
        "kernel": f"{platform.release()} {platform.version()} {platform.machine()}",
        "clawplane": clawplane.__version__,
        "python": platform.python_version(),
        "uid": str(os.geteuid()),
        "uid_map": " ".join(_text("/proc/self/uid_map").split()),
        "cgroups": sandbox.cgroup_mode,
        "modules": _text("/sys/kernel/security/lsm"),
        **{name: status.get(name, "") for name in _STATUS},
        **{name: _text(f"/proc/sys/{name}") for name in _SETTINGS},
    }


def finding_of(verdict: Verdict) -> Finding:
    """Return what `clawplane doctor` says of a verdict."""
    return Finding(
        id="selftest",
        ok=not verdict.reason,
        critical=False,  # Workers run nevertheless
        title="Critical items of the selftest held when a runner of this data directory tried them",
        cause=verdict.reason,
        remedy=_HINT,
    )


def remembered(memory: Path) -> Verdict | None:
    """Return the verdict that a file holds; None when it holds none."""
    try:
        return msgspec.json.decode(memory.read_bytes(), type=Verdict)
    except (OSError, msgspec.MsgspecError):
        return None


def _remember(memory: Path, verdict: Verdict) -> None:
    fresh = memory.with_suffix(".new")
    try:
        fresh.write_bytes(msgspec.json.encode(verdict))
        fresh.rename(memory)
    except OSError as error:
        _log.warning("The selftest's verdict cannot be kept: %s", error)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
