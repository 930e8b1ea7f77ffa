"""What an operator can set about code sessions: SessionChoices on a runner, SessionBounds on the control plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from clawplane.domain.errors import InvalidArgument
from clawplane.variables import entries, whole_number

ProfileName = Literal["bare", "data", "full"]

MIB: Final = 1 << 20
_PROFILES: Final[Mapping[str, ProfileName]] = {"bare": "bare", "data": "data", "full": "full"}


class SessionChoices(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner offers of code sessions. Sizes in bytes, times in seconds.

    `profiles` are offered; of those in `ready`, `pool` sandboxes each are kept ready, None: as many as memory allows.
    `spill` is how much of one exec's output is kept in the workspace when it is more than an answer shows;
    `save_seconds` is how long sessions are given to save their variables when the runner leaves.
    """

    enabled: bool = True
    slots: int = 1000
    pool: int | None = None
    profiles: tuple[ProfileName, ...] = ("bare", "data", "full")
    ready: tuple[ProfileName, ...] = ("data",)
    spill: int = 16 * MIB
    save_seconds: int = 10


class SessionBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the control plane allows: times in seconds.

    `per_owner` sessions that have not ended; `waiting` execs of one session that run or are queued; `placing` to wait
    until a runner takes a session, `linking` until a runner that has just lost its link comes back; `history_days`
    after which the execs of a session that nobody uses any more are forgotten.
    """

    per_owner: int = 2000
    waiting: int = 100
    placing: int = 30
    linking: int = 2
    history_days: int = 30


def session_choices(environment: Mapping[str, str]) -> SessionChoices:
    """Read a runner's side."""
    offered = _profiles(environment, "CLAWPLANE_SESSION_PROFILES") or tuple(_PROFILES.values())
    ready = _profiles(environment, "CLAWPLANE_SESSION_READY") or tuple(name for name in ("data",) if name in offered)
    missing = [name for name in ready if name not in offered]
    if missing:
        hint = f"Choose from {', '.join(offered)}, or add it to CLAWPLANE_SESSION_PROFILES."
        raise InvalidArgument(f"CLAWPLANE_SESSION_READY has a profile that is not offered: {missing[0]}.", hint=hint)
    return SessionChoices(
        enabled=whole_number(environment, "CLAWPLANE_SESSIONS", 1, low=0, high=1) == 1,
        slots=whole_number(environment, "CLAWPLANE_SESSION_SLOTS", 1000, low=1, high=100_000),
        pool=_pool(environment),
        profiles=offered,
        ready=ready,
        spill=whole_number(environment, "CLAWPLANE_SESSION_SPILL_BYTES", 16 * MIB, low=0, high=1 << 40),
        save_seconds=whole_number(environment, "CLAWPLANE_SESSION_SAVE_SECONDS", 10, low=1, high=3600),
    )


def _pool(environment: Mapping[str, str]) -> int | None:
    name = "CLAWPLANE_SESSION_POOL"
    return whole_number(environment, name, 0, low=0, high=1000) if environment.get(name, "").strip() else None


def session_bounds(environment: Mapping[str, str]) -> SessionBounds:
    """Read the control plane's side."""
    return SessionBounds(
        per_owner=whole_number(environment, "CLAWPLANE_SESSIONS_PER_OWNER", 2000, low=1, high=1_000_000),
        waiting=whole_number(environment, "CLAWPLANE_SESSION_WAITING", 100, low=1, high=10_000),
        placing=whole_number(environment, "CLAWPLANE_SESSION_PLACING_SECONDS", 30, low=1, high=3600),
        linking=whole_number(environment, "CLAWPLANE_SESSION_LINKING_SECONDS", 2, low=0, high=600),
        history_days=whole_number(environment, "CLAWPLANE_SESSION_HISTORY_DAYS", 30, low=1, high=36_500),
    )


def _profiles(environment: Mapping[str, str], variable: str) -> tuple[ProfileName, ...]:
    named = entries(environment, variable)
    unknown = [name for name in named if name not in _PROFILES]
    if unknown:
        hint = f"Choose from {', '.join(_PROFILES)}, separated by commas."
        raise InvalidArgument(f"{variable} has an unknown profile: {unknown[0][:40]!r}.", hint=hint)
    return tuple(dict.fromkeys(_PROFILES[name] for name in named))
