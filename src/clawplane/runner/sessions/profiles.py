"""Have the Python packages of each profile installed, and an interpreter with them imported to fork from.

Theory of operation. `bare` needs nothing and works at once. The others are installed by the builder in the background,
from wheels only, so that no package's set-up code has run in what a trusted zygote imports; versions are what the index
gives on that day. An edition older than the environment cache keeps environments is replaced at the next start of the
runner; when that fails the old one stays in use. Whoever needs a profile that is not there yet waits for it and can
tell why; a failure is told to all who wait, and tried again after a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from clawplane.builder.environments import Environment, EnvironmentCache
from clawplane.builder.errors import BuilderError
from clawplane.builder.launcher import Launcher
from clawplane.builder.plan import PythonPlan
from clawplane.builder.requirements import Requirement
from clawplane.builder.tools import PythonRuntime
from clawplane.domain.clock import Clock
from clawplane.domain.errors import Unavailable
from clawplane.domain.sessions import DEFAULT_PROFILE, Profile
from clawplane.sandbox.launch import Sandbox, Zygote, ZygoteError

_DATA: Final = ("matplotlib", "numpy", "pandas")
PACKAGES: Final[Mapping[Profile, tuple[str, ...]]] = {
    "bare": (),
    "data": (*_DATA, "pip"),
    "full": (
        *_DATA,
        "beautifulsoup4",
        "httpx[socks]",
        "lxml",
        "openpyxl",
        "pillow",
        "pip",
        "pysocks",
        "requests",
        "scikit-learn",
        "scipy",
    ),
}
"""What is installed; pysocks and the extra of httpx let code that asks for it speak SOCKS to the session's proxy."""

_ALWAYS: Final = (
    "ast", "asyncio", "base64", "collections", "contextlib", "csv", "dataclasses", "datetime", "decimal", "functools",
    "inspect", "io", "itertools", "json", "math", "pathlib", "pickle", "random", "re", "shutil", "statistics", "string",
    "subprocess", "tempfile", "textwrap", "threading", "time", "tokenize", "traceback", "types", "typing", "uuid",
)  # fmt: skip
_NUMERIC: Final = (
    "numpy",
    "numpy.random",
    "pandas",
    "matplotlib",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)
PRELOADED: Final[Mapping[Profile, tuple[str, ...]]] = {
    "bare": _ALWAYS,
    "data": (*_ALWAYS, *_NUMERIC),
    "full": (*_ALWAYS, *_NUMERIC, "requests", "httpx", "bs4", "lxml.etree", "PIL.Image"),
}
"""What a session has imported when it starts; the rest of the packages is imported when asked for."""

ENTRY_POINT: Final = "clawplane.sandbox.inside.repl.main:main"
"""What an interpreter of a session calls; every zygote has it imported."""
_RETRY_SECONDS: Final = 120.0

_log = logging.getLogger(__name__)


class ProfileFailed(Unavailable):
    """The packages of a profile could not be installed or imported on this runner."""

    default_hint = "Use the profile `bare`, or look at the package index that the runner's host is configured with."


@dataclass(frozen=True, slots=True)
class Foundation:
    """What sessions of a profile stand on: the zygote to fork from, and where packages are, on the host and inside."""

    profile: Profile
    zygote: Zygote
    site_directories: tuple[str, ...]
    fingerprint: str = ""
    """The environment's, which must not be collected; empty for `bare`."""


class _Edition(msgspec.Struct, frozen=True, kw_only=True):
    """Which installation of a profile is in use and when it was made (ms)."""

    name: str
    made_at: int


@dataclass(slots=True)
class _State:
    """How far one profile is."""

    foundation: Foundation | None = None
    making: asyncio.Task[Foundation] | None = field(default=None, repr=False)
    failure: ProfileFailed | None = None
    not_before: float = 0.0
    last_line: str = ""


class Profiles:
    """The foundations of all profiles on one runner."""

    def __init__(
        self,
        sandbox: Sandbox,
        cache: EnvironmentCache,
        launcher: Launcher,
        python: PythonRuntime,
        *,
        offered: tuple[Profile, ...],
        memory: Path,
        max_age_days: float,
        clock: Clock,
    ) -> None:
        """`memory` is the file that remembers which edition of each profile is in use."""
        self._sandbox = sandbox
        self._cache = cache
        self._launcher = launcher
        self._python = python
        self._memory = memory
        self._max_age = max_age_days * 86_400_000
        self._clock = clock
        self._states: dict[Profile, _State] = {profile: _State() for profile in offered}
        self._editions = self._recall()
        self._starting: set[asyncio.Future[Zygote]] = set()
        self._turn = asyncio.Lock()  # one installation at a time: the first is wanted soon, and they share their wheels

    def begin(self) -> None:
        """Start making what a session without wishes needs; the rest is made when somebody asks for it."""
        for profile in self._states:
            if profile == DEFAULT_PROFILE or not PACKAGES[profile]:
                self._start(profile)

    def at_hand(self, profile: Profile) -> Foundation | None:
        """Return the foundation of a profile if it is there."""
        state = self._states.get(profile)
        return state.foundation if state else None

    def progress(self, profile: Profile) -> str:
        """Say in one sentence what those who need the profile wait for."""
        state = self._states.get(profile)
        line = state.last_line if state else ""
        return f"The packages of the profile {profile} are being installed{f': {line}' if line else '.'}"

    async def ensure(self, profile: Profile) -> Foundation:
        """Return the foundation of a profile when it is ready; raises ProfileFailed."""
        state = self._states.get(profile)
        if state is None:
            offered = ", ".join(self._states)
            raise ProfileFailed(f"This runner does not offer the profile {profile}.", hint=f"It offers {offered}.")
        if state.foundation is not None:
            return state.foundation
        making = self._start(profile)
        if making is None:
            raise state.failure or ProfileFailed(f"The profile {profile} is not ready.")
        return await asyncio.shield(making)

    def fingerprints(self) -> set[str]:
        """Return the environments that must not be collected."""
        return {state.foundation.fingerprint for state in self._states.values() if state.foundation is not None} - {""}

    async def close(self) -> None:
        """Abandon what is being made; the zygotes end with the sandbox."""
        tasks = [state.making for state in self._states.values() if state.making is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._starting, return_exceptions=True)

    def _start(self, profile: Profile) -> asyncio.Task[Foundation] | None:
        state = self._states[profile]
        if state.foundation is not None or state.making is not None:
            return state.making
        if state.failure is not None and asyncio.get_running_loop().time() < state.not_before:
            return None
        state.making = asyncio.create_task(self._make(profile, state))
        state.making.add_done_callback(_retrieved)
        return state.making

    async def _make(self, profile: Profile, state: _State) -> Foundation:
        try:
            site: tuple[str, ...] = ()
            fingerprint = ""
            if PACKAGES[profile]:
                async with self._turn:
                    environment = await self._installed(profile, state)
                site = tuple(str(path) for path in environment.site_directories)
                fingerprint = environment.fingerprint
            starting = asyncio.ensure_future(
                self._sandbox.zygote(
                    key=f"session {profile} {fingerprint:.12}",
                    python=str(self._python.executable),
                    preload=(*PRELOADED[profile], ENTRY_POINT.partition(":")[0]),
                    site_directories=site,
                )
            )
            self._starting.add(starting)  # a start that is cancelled half-way would leave a process behind
            zygote = await asyncio.shield(starting)
        except (BuilderError, ZygoteError, OSError) as error:
            state.failure = ProfileFailed(f"The profile {profile} is not available on this runner: {error}")
            state.not_before = asyncio.get_running_loop().time() + _RETRY_SECONDS
            _log.warning("%s", state.failure)
            raise state.failure from error
        finally:
            state.making = None
        state.foundation = Foundation(profile, zygote, site, fingerprint)
        state.failure = None
        _log.info("Sessions of the profile %s start warm from now on", profile)
        return state.foundation

    async def _installed(self, profile: Profile, state: _State) -> Environment:
        def hear(line: str) -> None:
            state.last_line = line[:200]

        now = self._clock.now_ms()
        edition = self._editions.get(profile)
        old = edition is not None and now - edition.made_at > self._max_age
        if edition is not None and not old:
            return await self._build(profile, edition, hear)
        fresh = _Edition(name=f"profile {profile} {now}", made_at=now)
        try:
            built = await self._build(profile, fresh, hear)
        except BuilderError as error:
            if edition is None:
                raise
            _log.warning("The packages of the profile %s stay as they are: %s", profile, error)
            return await self._build(profile, edition, hear)
        self._remember(profile, fresh)
        return built

    async def _build(self, profile: Profile, edition: _Edition, hear: Callable[[str], None]) -> Environment:
        plan = PythonPlan(tuple(_requirement(name) for name in PACKAGES[profile]))
        return await self._cache.ensure_trusted(edition.name, plan, launcher=self._launcher, on_log=hear)

    def _recall(self) -> dict[str, _Edition]:
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=dict[str, _Edition])
        except (OSError, msgspec.MsgspecError):
            return {}

    def _remember(self, profile: Profile, edition: _Edition) -> None:
        self._editions[profile] = edition
        fresh = self._memory.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(self._editions))
        fresh.rename(self._memory)


def _requirement(name: str) -> Requirement:
    bare, _, extra = name.partition("[")
    return Requirement(bare, extras=(extra.rstrip("]"),)) if extra else Requirement(bare)


def _retrieved(task: asyncio.Task[Foundation]) -> None:
    if not task.cancelled():
        task.exception()
