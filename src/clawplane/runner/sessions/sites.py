"""Make sandboxes by half, for sessions that the ready ones do not suit.

Most of a cold start is the same for every session of a profile: processes, namespaces, the tree of files, the network,
the listeners. A site is that and waits for the rest, the workspace (see sandbox/inside/child.py). No interpreter runs
in it, so it is small; nobody's code ever ran in it. It serves sessions with a workspace or an environment of their own,
and those of a burst for which no ready sandbox is left. A site is used once.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from clawplane.domain.sessions import SessionOptions
from clawplane.runner.sessions.profiles import Foundation
from clawplane.runner.sessions.world import WORKSPACE, World, limits
from clawplane.sandbox.launch import Resident, Sandbox
from clawplane.sandbox.policy import Policy, Writable


async def begin_site(sandbox: Sandbox, world: World, foundation: Foundation) -> Resident | None:
    """Begin a sandbox that lacks its workspace; None where that cannot be mounted last. Raises as `begin_resident`."""
    options = SessionOptions(profile=foundation.profile)
    policy = world.policy(options, foundation.site_directories, Path("/"))
    if not _can_wait(policy):
        return None
    beginning = asyncio.ensure_future(sandbox.begin_resident(foundation.zygote, _without_workspace(policy)))
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:  # half of one cannot be closed
        await asyncio.gather(beginning, return_exceptions=True)
        if beginning.exception() is None:
            await abandoned(beginning.result())
        raise


def suits(options: SessionOptions) -> bool:
    """Tell whether a session with these options may live on a site: its limits stand already."""
    return limits(options) == limits(SessionOptions(profile=options.profile))


def _without_workspace(policy: Policy) -> Policy:
    """Return what a site is begun with for a session of this policy."""
    return replace(policy, mounts=tuple(each for each in policy.mounts if not isinstance(each, Writable)))


def _can_wait(policy: Policy) -> bool:
    """Tell whether the workspace may be mounted last: it would hide what lies in its place."""
    return not any(each.target.startswith(f"{WORKSPACE}/") for each in policy.mounts)


async def abandoned(resident: Resident) -> None:
    """End a sandbox that nobody lives in."""
    await resident.close()
    for listener in resident.listeners.values():
        listener.close()
