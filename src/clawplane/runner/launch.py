"""Choose how a Worker is started: forked from a warm interpreter, or executed plainly.

A Python Worker spends most of its start-up importing grpc. So there is one zygote per set of grpcio and protobuf
versions, with those imported from a trusted copy (the builder's warm layer), and a Worker whose environment has the
same versions is forked from it. No run ever waits for a zygote: the first Worker of a new set starts plainly while its
zygote is made in the background, as a rule right after its environment was built. At most a few zygotes are kept; the
longest unused goes, once nothing forked from it runs any more, for its guests die with it. The sets are remembered in a
file, so that after a restart of the runner its Workers start warm again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from clawplane.builder.environments import Environment, EnvironmentCache
from clawplane.builder.errors import BuilderError
from clawplane.builder.launcher import Launcher
from clawplane.builder.tools import PythonRuntime
from clawplane.runner.isolation import Isolation
from clawplane.sandbox.launch import Sandbox, Zygote, ZygoteError
from clawplane.sandbox.policy import Policy
from clawplane.sandbox.process import Process

PRELOADED: Final = (
    "grpc",
    "google.protobuf.empty_pb2",
    "google.protobuf.descriptor_pb2",
    "google.protobuf.internal.builder",
    "google.protobuf.runtime_version",
    "json",
    "logging",
    "asyncio",
    "typing",
    "datetime",
)
_MOST_ZYGOTES: Final = 4
_RECALLED: Final = 2
_RETRY_SECONDS: Final = 600.0
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)

Versions = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Warm:
    """One set of versions: its zygote, when it has one, and how many guests of it run."""

    zygote: Zygote | None = None
    guests: int = 0
    layer: Path | None = None
    not_before: float = 0.0
    """Seconds of the event loop's clock: when making it may be tried again after it failed."""
    making: asyncio.Task[None] | None = field(default=None, repr=False)


class WarmInterpreters:
    """Zygotes by the versions they have imported; without a sandbox every start is plain."""

    def __init__(
        self,
        isolation: Isolation,
        environments: EnvironmentCache,
        launcher: Launcher,
        python: PythonRuntime,
        *,
        memory: Path,
    ) -> None:
        """Take what starts Workers and builds layers; `memory` is the file that remembers what was warm."""
        self._isolation = isolation
        self._sandbox = isolation if isinstance(isolation, Sandbox) else None
        self._environments = environments
        self._launcher = launcher
        self._python = python
        self._memory = memory
        self._warm: dict[Versions, _Warm] = {}
        self._numbers = itertools.count(1)

    def begin(self, environment: Environment) -> None:
        """Start making the zygote for an environment in the background, unless it is there or cannot be."""
        versions = _versions(environment)
        if versions is not None:
            self._begin(versions)

    def layers(self) -> set[str]:
        """Return the fingerprints of the layers that zygotes import from, which must not be collected."""
        found = [warm.layer for warm in self._warm.values() if warm.layer is not None]
        return {name for layer in found for name in layer.parts if _FINGERPRINT.fullmatch(name)}

    def recall(self) -> None:
        """Start making the zygotes that an earlier process of this runner used last."""
        try:
            remembered = msgspec.json.decode(self._memory.read_bytes(), type=list[Versions])
        except (OSError, msgspec.MsgspecError):
            return
        for versions in remembered[-_RECALLED:]:
            self._begin(versions)

    def _begin(self, versions: Versions) -> None:
        if self._sandbox is None:
            return
        warm = self._warm.setdefault(versions, _Warm())
        now = asyncio.get_running_loop().time()
        if warm.zygote is None and warm.making is None and now >= warm.not_before:
            warm.making = asyncio.create_task(self._make(self._sandbox, versions, warm))

    @asynccontextmanager
    async def started(
        self, policy: Policy, environment: Environment, argv: Sequence[str], *, site: Sequence[str]
    ) -> AsyncIterator[Process]:
        """Start a Python script, warm when it can be; when the context ends, nothing of it runs any more.

        `argv` is interpreter and script, `site` the site directories of the environment, all as the guest sees them.
        """
        interpreter, script = argv
        versions = _versions(environment)
        warm = None if versions is None else self._warm.get(versions)
        if self._sandbox is None or versions is None or warm is None or warm.zygote is None:
            self.begin(environment)
            async with started(self._isolation, policy, argv) as process:
                yield process
            return
        self._warm[versions] = self._warm.pop(versions)
        warm.guests += 1
        try:
            async with _ended(
                await self._sandbox.run_python(
                    warm.zygote, policy, script, interpreter=interpreter, site_directories=site
                )
            ) as process:
                yield process
        finally:
            warm.guests -= 1
            await self._make_room()

    async def close(self) -> None:
        """Abandon what is being made; the zygotes end with the sandbox."""
        tasks = [warm.making for warm in self._warm.values() if warm.making is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, sandbox: Sandbox, versions: Versions, warm: _Warm) -> None:
        name = ", ".join(f"{package} {version}" for package, version in versions)
        try:
            layer = await self._environments.ensure_warm_layer(dict(versions), launcher=self._launcher)
            warm.layer = layer
            warm.zygote = await sandbox.zygote(
                key=f"{name} #{next(self._numbers)}",
                python=str(self._python.executable),
                preload=PRELOADED,
                site_directories=(str(layer),),
            )
            self._remember()
            _log.info("Python Workers with %s start warm from now on", name)
            await self._make_room()
        except (BuilderError, ZygoteError, OSError) as error:
            warm.not_before = asyncio.get_running_loop().time() + _RETRY_SECONDS
            _log.warning("Python Workers with %s start cold: %s", name, error)
        finally:
            warm.making = None

    def _remember(self) -> None:
        known = [versions for versions, warm in self._warm.items() if warm.zygote is not None]
        fresh = self._memory.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(known))
        fresh.rename(self._memory)

    async def _make_room(self) -> None:
        """Close the longest unused zygotes beyond the limit that nothing runs in."""
        warm_ones = [versions for versions, warm in self._warm.items() if warm.zygote is not None]
        excess = len(warm_ones) - _MOST_ZYGOTES
        for versions in warm_ones[:-1]:
            warm = self._warm[versions]
            if excess <= 0 or warm.guests or warm.zygote is None:
                continue
            excess -= 1
            zygote = warm.zygote
            del self._warm[versions]
            await zygote.close()


@asynccontextmanager
async def started(isolation: Isolation, policy: Policy, argv: Sequence[str]) -> AsyncIterator[Process]:
    """Start a program; when the context ends, nothing of it runs any more."""
    async with _ended(await isolation.run(policy, argv)) as process:
        yield process


@asynccontextmanager
async def _ended(process: Process) -> AsyncIterator[Process]:
    try:
        yield process
    finally:
        if process.alive:
            process.kill()
            await asyncio.shield(process.wait())
        for listener in process.listeners.values():
            listener.close()  # whoever served one has closed it already, which does no harm


def _versions(environment: Environment) -> Versions | None:
    """Return what a zygote for this environment must have imported; None when it has no SDK libraries."""
    warm = environment.warm
    if environment.language != "python" or not ("grpcio" in warm and "protobuf" in warm):
        return None
    return tuple(sorted(warm.items()))
