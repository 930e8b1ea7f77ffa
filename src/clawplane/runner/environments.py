"""Get the environment of a package: read its dependency files, plan, and ask the builder.

What a package depends on is read once per content and kept, so that a run of a known package reads no file of it again.
An environment that is here is used at once. Only when it is absent, the lock that the version's first build found is
fetched, so that every runner has the same.
"""

from __future__ import annotations

import asyncio
import logging
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from clawplane.builder.environments import Environment, EnvironmentCache
from clawplane.builder.errors import BuilderError, ManifestRefused
from clawplane.builder.executables import HEADER_BYTES, check_executable
from clawplane.builder.launcher import Launcher
from clawplane.builder.plan import (
    MAXIMUM_LOCK_BYTES,
    MAXIMUM_MANIFEST_BYTES,
    Plan,
    plan_go,
    plan_node,
    plan_python,
)
from clawplane.domain.workers import Language
from clawplane.runner.locks import Download, fetch_lock

_MOST_PLANS: Final = 1024

_log = logging.getLogger(__name__)


class Environments:
    """Environments of packages, by the content of the package."""

    def __init__(self, cache: EnvironmentCache, launcher: Launcher, download: Download, *, machine: str) -> None:
        """Take the cache, what builds run in, where locks are, and this host's architecture (as `uname -m` says it)."""
        self._cache = cache
        self._launcher = launcher
        self._download = download
        self._machine = machine
        self._plans: dict[tuple[str, Language], Plan] = {}
        self._in_use: Counter[str] = Counter()
        self._compiling: dict[str, asyncio.Task[None]] = {}

    async def ensure(
        self,
        package: Path,
        sha256: str,
        language: Language,
        *,
        lock_key: str = "",
        on_log: Callable[[str], None],
        on_progress: Callable[[str], None] = lambda phase: None,
    ) -> Environment:
        """Return the environment of an unpacked package; raises ManifestRefused and BuildFailed.

        lock_key: the blob of the lock it is made from when it is not here; empty: there is none, resolve.
        """
        plan = self._plans.get((sha256, language))
        if plan is None:
            plan = await asyncio.to_thread(read_plan, package, language, self._machine)
            if len(self._plans) >= _MOST_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[sha256, language] = plan
        environment = await self._cache.find(plan)
        if environment is None:
            lock = await fetch_lock(lock_key, self._download) if lock_key else None
            environment = await self._cache.ensure(
                plan, lock=lock, launcher=self._launcher, on_log=on_log, on_progress=on_progress
            )
        self._compile_beside(environment)
        return environment

    @contextmanager
    def using(self, environment: Environment) -> Iterator[None]:
        """Keep an environment from being collected while something runs in it."""
        name = environment.fingerprint
        self._in_use[name] += 1
        try:
            yield
        finally:
            self._in_use[name] -= 1
            if not self._in_use[name]:
                del self._in_use[name]

    async def close(self) -> None:
        """Abandon what is being compiled; environments work without byte-code, only slower."""
        tasks = list(self._compiling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _compile_beside(self, environment: Environment) -> None:
        """Add byte-code in the background: nobody waits for it, and the second start is faster for it."""
        name = environment.fingerprint
        if environment.compiled or name in self._compiling:
            return
        task = asyncio.create_task(self._compile(environment))
        self._compiling[name] = task
        task.add_done_callback(lambda _: self._compiling.pop(name, None))

    async def _compile(self, environment: Environment) -> None:
        try:
            with self.using(environment):
                await self._cache.compile(environment, launcher=self._launcher)
        except (BuilderError, OSError) as error:
            _log.warning("The environment %.12s stays without byte-code: %s", environment.fingerprint, error)

    async def collect(self, *, max_age: float, max_bytes: int, keep: set[str]) -> None:
        """Remove environments by age (seconds) and total size, but none that is in use or whose fingerprint is kept."""
        await self._cache.collect(max_age=max_age, max_bytes=max_bytes, in_use={*self._in_use, *keep})


def read_plan(package: Path, language: Language, machine: str) -> Plan:
    """Return what a package's dependency files ask for; raises ManifestRefused."""
    match language:
        case "python":
            return plan_python(_read(package / "requirements.txt", MAXIMUM_MANIFEST_BYTES))
        case "node":
            manifest = _read(package / "package.json", MAXIMUM_MANIFEST_BYTES)
            return plan_node(manifest, _read(package / "package-lock.json", MAXIMUM_LOCK_BYTES))
        case "go":
            program = package / "main"
            with program.open("rb") as file:
                header = file.read(HEADER_BYTES)
            check_executable(header, stat.S_IMODE(program.stat().st_mode), machine)
            return plan_go()


def _read(file: Path, maximum: int) -> bytes | None:
    try:
        with file.open("rb") as opened:
            content = opened.read(maximum + 1)
    except FileNotFoundError:
        return None
    if len(content) > maximum:
        raise ManifestRefused(file.name, 0, f"is larger than {maximum} bytes.", "Is this the right file?")
    return content
