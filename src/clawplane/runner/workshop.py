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
from clawplane.runner.build_launcher import BuildLauncher
from clawplane.runner.egress import Exits
from clawplane.runner.environments import Environments
from clawplane.runner.isolation import Isolation
from clawplane.runner.jobs.guest import Runtimes, find_runtimes
from clawplane.runner.launch import WarmInterpreters
from clawplane.runner.settings import RunnerSettings
from clawplane.runner.workspace import PackageCache

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


@asynccontextmanager
async def workshop(
    settings: RunnerSettings, isolation: Isolation, tools: Tools, environ: Mapping[str, str]
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
    try:
        yield Workshop(
            isolation=isolation,
            packages=packages,
            environments=environments,
            warm=warm,
            runtimes=find_runtimes(environ, tools.python),
            exits=exits,
        )
    finally:
        # what waits for the network or builds goes first, what they use last
        await packages.close()
        await environments.close()
        await warm.close()
        await exits.close()
        await blobs.close()
