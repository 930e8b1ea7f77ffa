"""Turn the order for a sandbox into the options of a session; what they cannot express is refused, never ignored."""

from __future__ import annotations

from typing import Final

from clawplane.api.e2b.answers import outside
from clawplane.api.e2b.shapes import Network, NewSandbox
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.session_rules import check_environment, check_metadata
from clawplane.domain.sessions import DEFAULT_PROFILE, EgressRules, Profile, SessionOptions

DEFAULT_LIFETIME: Final = 300
MAX_LIFETIME: Final = 86_400
"""Seconds; one day, as with E2B itself."""

_EVERYTHING: Final = "0.0.0.0/0"
_TEMPLATES: Final[dict[str, Profile]] = {
    "base": DEFAULT_PROFILE,
    "code-interpreter-v1": DEFAULT_PROFILE,
    "code-interpreter": DEFAULT_PROFILE,
    "bare": "bare",
    "data": "data",
    "full": "full",
}


def options_of(order: NewSandbox, *, name: str = "") -> SessionOptions:
    """Return a session's options; raises InvalidArgument or NotImplementedHere."""
    if order.mcp is not None:
        raise outside("the MCP gateway in a sandbox", "clawplane itself speaks MCP at /mcp.")
    if order.iam is not None:
        raise outside("workload identity (iam)")
    if order.volume_mounts:
        raise outside("volumes", "Use the workspace API under /v1 for files that outlive a session.")
    profile = _TEMPLATES.get(order.template_id)
    if profile is None:
        raise InvalidArgument(
            f"template: there is no template {order.template_id[:100]!r}.",
            hint=f"Templates are not built here; use one of {', '.join(_TEMPLATES)}.",
        )
    return SessionOptions(
        profile=profile,
        expires_after=MAX_LIFETIME,
        egress=_egress(order),
        environment=check_environment(order.env_vars, "envs"),
        metadata=check_metadata(order.metadata),
        name=name,
    )


def lifetime(seconds: int | None) -> int:
    """Return a time to live in seconds; raises InvalidArgument."""
    chosen = DEFAULT_LIFETIME if seconds is None else seconds
    if not 0 <= chosen <= MAX_LIFETIME:
        raise InvalidArgument(f"timeout: {chosen} is out of range.", hint=f"Use 0 to {MAX_LIFETIME} seconds.")
    return chosen


def _egress(order: NewSandbox) -> EgressRules:
    network = order.network or Network()
    for value, what in (
        (network.egress_proxy, "network.egress_proxy"),
        (network.rules, "network.rules"),
        (network.dns_servers, "network.dns_servers"),
        (network.mask_request_host, "network.mask_request_host"),
        (network.https_ports, "network.https_ports"),
    ):
        if value is not None:
            raise outside(what, "Use allow_out and deny_out.")
    if order.allow_internet_access is False:
        return EgressRules(mode="none")
    allowed = tuple(host for host in network.allow_out if host != _EVERYTHING)
    denied = tuple(host for host in network.deny_out if host != _EVERYTHING)
    if allowed:
        return EgressRules(mode="listed", allow=allowed, deny=denied)
    if _EVERYTHING in network.deny_out and _EVERYTHING not in network.allow_out:
        return EgressRules(mode="none")
    return EgressRules(deny=denied)
