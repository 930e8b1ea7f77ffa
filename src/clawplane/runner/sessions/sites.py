"""Keep a few sandboxes half-made, for sessions that the ready ones do not suit.

Most of a cold start is the same for every session of a profile: processes, namespaces, the tree of files, the network,
the listeners. A site is that and waits for the rest, the workspace (see sandbox/inside/child.py). No interpreter runs
in it, so it is small; nobody's code ever ran in it. It serves sessions with a workspace or an environment of their own,
and those of a burst for which no ready sandbox is left. A site is used once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from dataclasses import replace
from pathlib import Path
from typing import Final

from clawplane.domain.errors import ClawplaneError
from clawplane.domain.sessions import Profile, SessionOptions
from clawplane.runner.sessions.profiles import Profiles
from clawplane.runner.sessions.quiet import Quiet
from clawplane.runner.sessions.world import WORKSPACE, World, limits
from clawplane.sandbox.launch import Resident, ResidentError, Sandbox, SandboxUnavailable, ZygoteError
from clawplane.sandbox.policy import Policy, Writable

_PATIENT_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Sites:
    """The half-made sandboxes of one runner."""

    def __init__(
        self,
        sandbox: Sandbox,
        world: World,
        quiet: Quiet,
        *,
        profiles: Profiles,
        kept: tuple[Profile, ...],
        size: int,
    ) -> None:
        """Keep `size` for each of the `kept` profiles."""
        self._sandbox = sandbox
        self._world = world
        self._quiet = quiet
        self._profiles = profiles
        self._kept = kept if size else ()
        self._size = size
        self._waiting: defaultdict[Profile, deque[Resident]] = defaultdict(deque)
        self._wanted = asyncio.Event()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to fill."""
        if self._kept:
            self._task = asyncio.create_task(self._refill())

    def take(self, options: SessionOptions) -> Resident | None:
        """Hand out a site for a session with these options, if there is one."""
        waiting = self._waiting[options.profile]
        if limits(options) != limits(SessionOptions(profile=options.profile)):
            return None
        while waiting:
            self._wanted.set()
            self._filled.clear()
            if (site := waiting.popleft()).alive:
                return site
            _close_listeners(site)
        return None

    async def full(self) -> None:
        """Wait until every profile that can be has its sites."""
        await self._filled.wait()

    async def close(self) -> None:
        """End them all."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        left = [site for waiting in self._waiting.values() for site in waiting]
        self._waiting.clear()
        await asyncio.gather(*(abandoned(site) for site in left), return_exceptions=True)

    async def _refill(self) -> None:
        for profile in self._kept:
            try:
                await self._profiles.ensure(profile)
            except ClawplaneError:
                continue  # it was said; a session that needs it asks again
        while True:
            self._wanted.clear()
            try:
                while (lacking := self._lacking()) is not None:
                    await self._quiet.wait(_PATIENT_SECONDS)
                    await self._make(lacking)
                self._filled.set()
                await self._wanted.wait()
            except (ClawplaneError, ResidentError, ZygoteError, SandboxUnavailable, OSError) as error:
                _log.warning("A sandbox cannot be prepared: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _make(self, profile: Profile) -> None:
        foundation = await self._profiles.ensure(profile)
        policy = self._world.policy(SessionOptions(profile=profile), foundation.site_directories, Path("/"))
        if not _can_wait(policy):
            self._kept = tuple(each for each in self._kept if each != profile)
            return
        beginning = asyncio.ensure_future(self._sandbox.begin_resident(foundation.zygote, _without_workspace(policy)))
        try:
            self._waiting[profile].append(await asyncio.shield(beginning))
        except asyncio.CancelledError:  # half of one cannot be closed
            await asyncio.gather(beginning, return_exceptions=True)
            if beginning.exception() is None:
                await abandoned(beginning.result())
            raise

    def _lacking(self) -> Profile | None:
        lacking = [
            each for each in self._kept if len(self._waiting[each]) < self._size and self._profiles.at_hand(each)
        ]
        return min(lacking, key=lambda each: len(self._waiting[each]), default=None)


def _without_workspace(policy: Policy) -> Policy:
    """Return what a site is begun with for a session of this policy."""
    return replace(policy, mounts=tuple(each for each in policy.mounts if not isinstance(each, Writable)))


def _can_wait(policy: Policy) -> bool:
    """Tell whether the workspace may be mounted last: it would hide what lies in its place."""
    return not any(each.target.startswith(f"{WORKSPACE}/") for each in policy.mounts)


async def abandoned(resident: Resident) -> None:
    """End a sandbox that nobody lives in."""
    await resident.close()
    _close_listeners(resident)


def _close_listeners(resident: Resident) -> None:
    for listener in resident.listeners.values():
        listener.close()
