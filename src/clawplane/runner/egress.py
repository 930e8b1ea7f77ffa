"""Join what the operator has decided about the network with what each subtask or session may use of it.

One `Exits` for the runner: its resolver, the operator's rules, the upstream proxies, and the hosts of the package
indexes, which sessions may reach wherever they are. It makes one `Relay` for each subtask and session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from clawplane.builder.access import IndexAccess
from clawplane.builder.errors import BuilderError
from clawplane.builder.tools import Tools, find_node
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.runs import RunSystem
from clawplane.domain.sessions import EgressEntry, EgressRules
from clawplane.egress.ledger import Ledger, Mark
from clawplane.egress.relay import Relay, RelayLimits
from clawplane.egress.resolver import Resolver
from clawplane.egress.rules import OperatorRules
from clawplane.egress.upstream import Upstreams
from clawplane.egress.ways import Direct
from clawplane.runner.settings import MIB, EgressSettings

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_log = logging.getLogger(__name__)


class Exits:
    """The ways out of one runner; raises InvalidArgument that names the setting when one cannot be read."""

    def __init__(self, settings: EgressSettings, *, control_plane: str, resolver: Resolver | None = None) -> None:
        self._resolver = resolver or Resolver()
        self._direct = Direct(self._resolver)
        self._learning: asyncio.Task[None] | None = None
        try:
            self._operator = OperatorRules.read(
                mode=settings.mode, trusted_hosts=settings.allow, forbidden=(_authority(control_plane),)
            )
        except ValueError as error:
            raise _unreadable("CLAWPLANE_EGRESS_ALLOW", error) from None
        try:
            self._operator = self._operator.denying(settings.deny)
        except ValueError as error:
            raise _unreadable("CLAWPLANE_EGRESS_DENY", error) from None
        try:
            self._upstreams = Upstreams.read(settings.upstreams)
        except ValueError as error:
            raise _unreadable("CLAWPLANE_EGRESS_UPSTREAMS", error) from None
        self._for_sessions = self._operator

    def learn_indexes(self, tools: Tools, environ: Mapping[str, str]) -> None:
        """Find out in the background where packages come from, and let sessions reach those hosts by name."""
        self._learning = asyncio.ensure_future(self._learn(tools, environ))

    async def learned(self) -> None:
        """Wait until what can be learned of the indexes is known."""
        if self._learning is not None:
            await asyncio.shield(self._learning)

    def for_worker(
        self,
        system: RunSystem,
        *,
        on_refusal: Callable[[str], None],
        on_exhausted: Callable[[], None],
    ) -> Relay:
        """Make the relay of one subtask: the run's region, and its traffic limit as the budget."""
        if not self._upstreams.serves(system.proxy_region):
            on_refusal(f"no proxy is set up for the region {system.proxy_region}; connections leave from this host.")
        return Relay(
            self._operator.rules(),
            Ledger(),
            self._upstreams.way(system.proxy_region, self._direct),
            limits=RelayLimits(traffic=system.max_total_traffic * MIB),
            on_refusal=on_refusal,
            on_exhausted=on_exhausted,
        )

    def for_session(self, wanted: EgressRules) -> Relay:
        """Make the relay of one session; raises InvalidArgument when its rules cannot be read."""
        try:
            rules = self._for_sessions.rules(wanted.mode, wanted.allow, wanted.deny)
        except ValueError as error:
            hint = "Use names, *.suffix names, addresses or networks, each with an optional :port."
            raise InvalidArgument(f"egress: {error}.", hint=hint) from None
        return Relay(rules, Ledger(), self._upstreams.way("", self._direct))

    async def close(self) -> None:
        """Stop learning and looking up."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        await self._resolver.close()

    async def _learn(self, tools: Tools, environ: Mapping[str, str]) -> None:
        access = IndexAccess(tools.indexes, environ)
        self._trust(_named(found.host, found.port) for found in access.configured())
        with contextlib.suppress(BuilderError, OSError, ValueError):
            registries = (await find_node(environ)).registries
            self._trust(_authority(registry) for registry in registries)
        with contextlib.suppress(OSError):
            self._trust(_named(found.host, found.port) for found in await access.linked())

    def _trust(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            try:
                self._for_sessions = self._for_sessions.trusting((host,))
            except ValueError as error:
                _log.debug("a package index's host is not trusted: %s", error)


def entries_since(ledger: Ledger, mark: Mark | None = None) -> tuple[EgressEntry, ...]:
    """Return what a relay's ledger has noted since a mark, as an exec's answer tells it."""
    return tuple(
        EgressEntry(
            host=entry.host,
            port=entry.port,
            verdict=entry.verdict,
            connections=entry.connections,
            sent=entry.sent,
            received=entry.received,
            reason=entry.reason,
        )
        for entry in ledger.since(mark)
    )


def _authority(url: str) -> str:
    """Return `host:port` of a URL; raises ValueError when its port is none."""
    parts = urlsplit(url)
    return _named(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443))


def _named(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unreadable(name: str, error: ValueError) -> InvalidArgument:
    return InvalidArgument(f"{name}: {error}.", hint=f"Correct {name}, or unset it.")
