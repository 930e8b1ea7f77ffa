"""The bodies of the control API, as E2B's own clients send and read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from clawplane.domain.sessions import Session, SessionState

ENVD_VERSION: Final = "0.5.7"
"""What clients are told of the daemon: octet-stream uploads, but no metadata on files."""

MIB: Final = 1 << 20
_FOREVER_MS: Final = 365 * 86_400_000


class AutoResume(msgspec.Struct, frozen=True):
    """Whether traffic wakes a paused sandbox."""

    enabled: bool = False


class Network(msgspec.Struct, frozen=True, rename="camel"):
    """What a sandbox may connect to."""

    allow_out: list[str] = []
    deny_out: list[str] = []
    allow_public_traffic: bool | None = None
    egress_proxy: dict[str, Any] | None = None
    rules: dict[str, Any] | None = None
    dns_servers: list[str] | None = None
    mask_request_host: str | None = None
    https_ports: list[int] | None = None


class NewSandbox(msgspec.Struct, frozen=True, rename="camel"):
    """The order for a sandbox; `timeout` in seconds from now."""

    template_id: str = msgspec.field(name="templateID", default="base")
    timeout: int | None = None
    auto_pause: bool = False
    auto_pause_memory: bool = True
    auto_resume: AutoResume = AutoResume()
    allow_internet_access: bool | None = msgspec.field(name="allow_internet_access", default=None)
    network: Network | None = None
    metadata: dict[str, str] = {}
    env_vars: dict[str, str] = {}
    mcp: dict[str, Any] | None = None
    iam: dict[str, Any] | None = None
    volume_mounts: list[Any] = []


class TimeoutBody(msgspec.Struct, frozen=True):
    """A new time to live, in seconds from now."""

    timeout: int


class ConnectBody(msgspec.Struct, frozen=True):
    """A connection; `memory` false asks for a start without what was in memory."""

    timeout: int | None = None
    memory: bool | None = None


class PauseBody(msgspec.Struct, frozen=True):
    """A pause; `memory` false keeps the files only."""

    memory: bool = True


class ForkBody(msgspec.Struct, frozen=True):
    """Copies of a sandbox."""

    timeout: int | None = None
    count: int = 1


class Refresh(msgspec.Struct, frozen=True):
    """A longer life, as older clients ask for it."""

    duration: int | None = None


def state_of(session: Session) -> Literal["running", "paused"]:
    """Return a session's state in E2B's words."""
    return "paused" if session.state is SessionState.SLEEPING else "running"


def opened(session: Session, token: str) -> dict[str, Any]:
    """Return what a client needs to talk to a sandbox."""
    return {
        "sandboxID": session.id,
        "templateID": session.options.profile,
        "alias": session.options.profile,
        "clientID": "clawplane",
        "envdVersion": ENVD_VERSION,
        "envdAccessToken": token,
        "trafficAccessToken": token,
        "domain": None,
    }


def listed(session: Session) -> dict[str, Any]:
    """Return a sandbox as the list has it."""
    options = session.options
    return {
        "sandboxID": session.id,
        "templateID": options.profile,
        "alias": options.profile,
        "clientID": "clawplane",
        "startedAt": _time(session.created_at),
        "endAt": _time(session.expires_at or session.created_at + _FOREVER_MS),
        "cpuCount": max(1, round(options.cpus)),
        "memoryMB": options.memory,
        "diskSizeMB": options.disk,
        "metadata": options.metadata,
        "state": state_of(session),
        "envdVersion": ENVD_VERSION,
    }


def detailed(session: Session, token: str) -> dict[str, Any]:
    """Return all that is told of a sandbox."""
    rules = session.options.egress
    return {
        **listed(session),
        "envdAccessToken": token,
        "domain": None,
        "allowInternetAccess": rules.mode != "none",
        "network": {"allowOut": list(rules.allow), "denyOut": list(rules.deny)},
        "lifecycle": {"onTimeout": "kill", "autoResume": True},
    }


def _time(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
