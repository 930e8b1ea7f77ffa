"""What a runner is told when it starts: frozen values, no effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clawplane.domain.sessions import DEFAULT_PROFILE, Profile
from clawplane.runner.host.settings import HostSettings

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class EgressSettings:
    """What the operator decides about connections to the outside, for Workers and sessions alike.

    mode: public = every public address; listed = only what `allow` names; none. allow: hosts as `host[:port]` that may
    also be on private addresses; deny: names, `*.suffix`, addresses and networks. upstreams: `REGION=URL` of proxies.
    """

    mode: Literal["public", "listed", "none"] = "public"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Everything an operator decides about one runner; sizes in bytes, times in seconds.

    `data` is this runner's own directory: its identity, package cache and environments live there.
    """

    url: str
    token: str = field(repr=False)
    data: Path
    name: str
    slots: int = 8
    """Subtasks at once."""
    build_slots: int = 2
    labels: Mapping[str, str] = field(default_factory=dict)
    unsafe_no_sandbox: bool = False
    drain_seconds: float = 8.0
    """How long running work is waited for after the first signal."""
    package_cache_bytes: int = 4096 * MIB
    environment_max_bytes: int = 20_000 * MIB
    environment_max_age_days: float = 30.0
    buffer_bytes: int = 96 * MIB
    """What all attempts together may hold in memory that is not stored yet."""
    attempt_buffer_bytes: int = 8 * MIB
    egress: EgressSettings = EgressSettings()
    sessions: bool = True
    """Offer code sessions; needs a sandbox."""
    session_slots: int = 64
    """Live sessions at once, frozen ones included."""
    session_pool: int = 4
    """Ready sandboxes kept for each profile in `session_ready`, and half as many half-made ones; 0 = none."""
    session_profiles: tuple[Profile, ...] = ("bare", "data", "full")
    """What is offered; all but `bare` are installed in the background at the first start."""
    session_ready: tuple[Profile, ...] = (DEFAULT_PROFILE,)
    session_spill_bytes: int = 16 * MIB
    """How much of one exec's output is kept in the workspace when it is more than an answer shows."""
    session_save_seconds: float = 10.0
    """How long sessions are given to save their variables when the runner leaves."""
    host: HostSettings | None = None
    """Do host tasks, with this user's own rights; None: do none."""
    protected: tuple[Path, ...] = ()
    """Directories that file tasks leave alone, beside this runner's own: the control plane's, on the same host."""
