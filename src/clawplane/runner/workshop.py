"""What all jobs of one runner share: the sandbox, the caches, the warm interpreters. Opened once, closed in order."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.tools import Tools
from clawplane.client.blobs import BlobClient
from clawplane.domain.clock import Clock
from clawplane.runner.build_launcher import BuildLauncher
from clawplane.runner.egress import Exits
from clawplane.runner.environments import Environments
from clawplane.runner.isolation import Isolation
from clawplane.runner.jobs.guest import Runtimes, find_runtimes
from clawplane.runner.launch import WarmInterpreters
from clawplane.runner.sessions.house import House
from clawplane.runner.sessions.places import Places
from clawplane.runner.sessions.profiles import Profiles
from clawplane.runner.sessions.residence import Ground
from clawplane.runner.sessions.trial import Trial
from clawplane.runner.sessions.world import World, certificates_of, index_variables
from clawplane.runner.settings import RunnerSettings
from clawplane.runner.workspace import PackageCache
from clawplane.sandbox.launch import Sandbox

BUILD_SECONDS: Final = 1800.0
_DOWNLOAD_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Workshop:
    """The equipment of one runner."""

    isolation: Isolation
    packages: PackageCache
    environments: Environments
    warm: WarmInterpreters
    runtimes: Runtimes
    exits: Exits
    sessions: House | None
    """None where sessions are not offered."""


@asynccontextmanager
async def workshop(
    settings: RunnerSettings, isolation: Isolation, tools: Tools, environ: Mapping[str, str], clock: Clock
) -> AsyncIterator[Workshop]:
    """Open the caches below the runner's data directory on top of an open sandbox."""
    exits = Exits(settings.egress, control_plane=settings.url)
    blobs = BlobClient(settings.url, settings.token)

    async def download(key: str, to: BinaryIO) -> str:
        return await blobs.download(key, to, within=_DOWNLOAD_SECONDS)

    launcher = BuildLauncher(isolation, seconds=BUILD_SECONDS)
    cache = EnvironmentCache(settings.data / "environments", tools)
    packages = PackageCache(settings.data, download, max_bytes=settings.package_cache_bytes)
    environments = Environments(cache, launcher, download, machine=os.uname().machine)
    warm = WarmInterpreters(isolation, cache, launcher, tools.python, memory=settings.data / "warm.json")
    warm.recall()
    exits.learn_indexes(tools, environ)
    runtimes = find_runtimes(environ, tools.python)
    sessions: House | None = None
    if settings.sessions and isinstance(isolation, Sandbox):
        profiles = Profiles(
            isolation,
            cache,
            launcher,
            tools.python,
            offered=settings.session_profiles,
            memory=settings.data / "profiles.json",
            max_age_days=settings.environment_max_age_days,
            clock=clock,
        )
        world = World(tools.python, runtimes, index_variables(tools.indexes), certificates_of(tools.indexes))
        trial = Trial(isolation, settings.data / "selftest.json", clock=clock)
        ground = Ground(isolation, world, exits)
        sessions = House(ground, profiles, Places(settings.data), settings, clock=clock, trial=trial)
    try:
        if sessions is not None:
            await sessions.start()
        yield Workshop(
            isolation=isolation,
            packages=packages,
            environments=environments,
            warm=warm,
            runtimes=runtimes,
            exits=exits,
            sessions=sessions,
        )
    finally:
        if sessions is not None:
            await sessions.close()
        # what waits for the network or builds goes first, what they use last
        await packages.close()
        await environments.close()
        await warm.close()
        await exits.close()
        await blobs.close()
