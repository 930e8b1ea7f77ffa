"""Decide where a connection may go: pure values, no lookup, no socket.

Theory of operation. A destination is judged twice: by its name before anything is looked up, and then each address
that the name resolved to. Four lists decide, the strongest first:
    deny       whoever wrote it, it wins;
    trusted    hosts that the operator named: they may be anywhere, on the host's loopback too;
    forbidden  what belongs to the platform itself, such as the control plane: nobody's rules open it but `trusted`;
    allow      what the mode `listed` is limited to; it never opens an address that is not public.
A trust is in a name and its port, never in an address: whoever connects to the address of a trusted name by another
name is judged like anybody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Final, Literal

from clawplane.egress.addresses import Address, Network, why_not_public
from clawplane.egress.hosts import HIGHEST_PORT, BadHost, Destination, read_address, read_name

Mode = Literal["public", "listed", "none"]

_BRACKETED: Final = re.compile(r"\[(?P<host>[^\]]*)\](?P<rest>/\d{1,3})?(?::(?P<port>\d{1,5}))?")
_PLAIN: Final = re.compile(r"(?P<host>[^:\[\]/]*)(?P<rest>/\d{1,3})?(?::(?P<port>\d{1,5}))?")
_BARE_6: Final = re.compile(r"(?P<host>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(?P<rest>/\d{1,3})?(?P<port>)")
_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal", ".lan", ".intranet", ".home.arpa", ".localdomain")
_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class Pattern:
    """One entry of a list: a name, a `*.suffix`, an address, a network, or `*`; port None = any."""

    text: str
    port: int | None = None
    name: str | None = None
    suffix: str | None = None
    network: Network | None = None

    def covers(self, destination: Destination, address: Address | None = None) -> bool:
        """Tell whether the destination, or an address that it resolved to, is meant."""
        if self.port is not None and self.port != destination.port:
            return False
        if self.network is not None:
            judged = destination.address if address is None else address
            return judged is not None and judged.version == self.network.version and judged in self.network
        if self.name is not None:
            return self.name == destination.name
        return self.suffix is None or (destination.address is None and destination.name.endswith(self.suffix))


def read_pattern(text: str) -> Pattern:
    """Read an entry such as `example.com`, `*.example.com:443`, `198.51.100.0/24`, `[2001:db8::1]:80`, `*:25`.

    Raises ValueError with a sentence that shows the entry and says what is wrong with it.
    """
    shown = text[:_SHOWN]
    match = _BARE_6.fullmatch(text) or _BRACKETED.fullmatch(text) or _PLAIN.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown!r} is no host, `*.suffix`, address or network with an optional `:port`")
    host, rest = match["host"], match["rest"]
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= HIGHEST_PORT:
        raise ValueError(f"{shown!r} has a port that is not within 1 .. {HIGHEST_PORT}")
    if host == "*" and not rest:
        return Pattern(text, port)
    wild = host.startswith("*.")
    try:
        address = None if wild else read_address(host)
        if address is not None:
            return Pattern(text, port, network=ip_network(f"{address}{rest or ''}", strict=False))
        name = read_name(host[2:] if wild else host)
    except BadHost as error:
        raise ValueError(f"{shown!r} cannot be used: {error}") from None
    except ValueError:
        raise ValueError(f"{shown!r} is no network: the length of its prefix is out of range") from None
    if rest:
        raise ValueError(f"{shown!r} is no network: it begins with a name")
    return Pattern(text, port, suffix=f".{name}") if wild else Pattern(text, port, name=name)


def read_named_host(text: str) -> Pattern:
    """Read an entry of the operator's own allow list: one host by name or address, with an optional `:port`.

    Networks and `*` are refused: what the platform keeps closed is opened host by host.
    """
    pattern = read_pattern(text)
    network = pattern.network
    if pattern.name is None and pattern.suffix is None and (network is None or network.num_addresses > 1):
        raise ValueError(f"{text[:_SHOWN]!r} names no single host: write `host` or `host:port`")
    return pattern


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its reason, "" when allowed. `anywhere`: the addresses of the name need not be public."""

    allowed: bool
    reason: str = ""
    anywhere: bool = False


_ALLOWED: Final = Decision(True)


@dataclass(frozen=True, slots=True)
class Rules:
    """Where one session or subtask may connect to."""

    mode: Mode = "public"
    allow: tuple[Pattern, ...] = ()
    deny: tuple[Pattern, ...] = ()
    trusted: tuple[Pattern, ...] = ()
    forbidden: tuple[Pattern, ...] = ()

    def judge(self, destination: Destination) -> Decision:
        """Judge by name and port, before anything is looked up."""
        if _covered(self.deny, destination):
            return Decision(False, "it is on the deny list")
        if self.mode == "none":
            return Decision(False, "connections to the outside are switched off")
        if self.mode == "listed" and not _covered(self.allow, destination):
            return Decision(False, "it is not on the allow list")
        if _covered(self.trusted, destination):
            return Decision(True, anywhere=True)
        if _covered(self.forbidden, destination):
            return Decision(False, "it belongs to the platform")
        return _ALLOWED if destination.address is None else _public(destination.address, "it is")

    def judge_address(self, destination: Destination, address: Address) -> Decision:
        """Judge an address that an allowed name resolved to, not trusting that name."""
        if _covered(self.deny, destination, address):
            return Decision(False, "its address is on the deny list")
        if _covered(self.forbidden, destination, address):
            return Decision(False, "its address belongs to the platform")
        return _public(address, "it resolves to")

    def judge_unresolved(self, destination: Destination) -> Decision:
        """Judge an allowed name that somebody else will resolve: names of local networks are not public."""
        if destination.address is None and ("." not in destination.name or destination.name.endswith(_LOCAL_SUFFIXES)):
            return Decision(False, "it is a name of a local network")
        return _ALLOWED


@dataclass(frozen=True, slots=True)
class OperatorRules:
    """What the operator of this host has decided for everybody, and the platform's own hosts."""

    mode: Mode = "public"
    trusted: tuple[Pattern, ...] = ()
    deny: tuple[Pattern, ...] = ()
    forbidden: tuple[Pattern, ...] = ()

    @classmethod
    def read(
        cls,
        *,
        mode: Mode = "public",
        trusted_hosts: Iterable[str] = (),
        deny: Iterable[str] = (),
        forbidden: Iterable[str] = (),
    ) -> OperatorRules:
        """Read the lists; raises ValueError that shows the entry. Trusted and forbidden are `host[:port]`."""
        return cls(
            mode,
            tuple(map(read_named_host, trusted_hosts)),
            tuple(map(read_pattern, deny)),
            tuple(map(read_named_host, forbidden)),
        )

    def trusting(self, hosts: Iterable[str]) -> OperatorRules:
        """Return the same with more trusted hosts, such as those of the package indexes."""
        return replace(self, trusted=self.trusted + tuple(map(read_named_host, hosts)))

    def denying(self, patterns: Iterable[str]) -> OperatorRules:
        """Return the same with more on the deny list."""
        return replace(self, deny=self.deny + tuple(map(read_pattern, patterns)))

    def rules(self, mode: Mode = "public", allow: Iterable[str] = (), deny: Iterable[str] = ()) -> Rules:
        """Narrow the operator's rules by a session's own; raises ValueError that shows the entry.

        Where the operator has a list, a session's list cannot go beyond it.
        """
        own_allow, own_deny = tuple(map(read_pattern, allow)), tuple(map(read_pattern, deny))
        if self.mode == "none" or mode == "none":
            return Rules("none")
        if self.mode == "public":
            return Rules(mode, own_allow, own_deny + self.deny, self.trusted, self.forbidden)
        listed = self.trusted if mode == "public" else tuple(_narrowed(self.trusted, own_allow))
        return Rules("listed", listed, own_deny + self.deny, self.trusted, self.forbidden)


def _narrowed(operators: Iterable[Pattern], own: tuple[Pattern, ...]) -> Iterable[Pattern]:
    """Yield what both lists name: of each pair that overlaps, the narrower one."""
    for wide in operators:
        for narrow in own:
            if narrow.port is not None and wide.port is not None and narrow.port != wide.port:
                continue
            port = wide.port if narrow.port is None else narrow.port
            if _includes(wide, narrow):
                yield replace(narrow, port=port)
            elif _includes(narrow, wide):
                yield replace(wide, port=port)


def _includes(wide: Pattern, narrow: Pattern) -> bool:
    """Tell whether every host of `narrow` is one of `wide`, ports aside."""
    if wide.network is not None and narrow.network is not None:
        return (
            wide.network.version == narrow.network.version
            and narrow.network.network_address in wide.network
            and narrow.network.prefixlen >= wide.network.prefixlen
        )
    if wide.network is not None or narrow.network is not None:
        return wide == Pattern(wide.text, wide.port)
    if wide.name is not None:
        return wide.name == narrow.name
    if wide.suffix is not None:
        return (narrow.name or narrow.suffix or "").endswith(wide.suffix)
    return True


def _covered(patterns: Iterable[Pattern], destination: Destination, address: Address | None = None) -> bool:
    return any(pattern.covers(destination, address) for pattern in patterns)


def _public(address: Address, how: str) -> Decision:
    what = why_not_public(address)
    return _ALLOWED if what is None else Decision(False, f"{how} {what}")
