"""Reach a destination: over this host's own network, after judging every address.

Theory of operation. A name is resolved here, never by the guest. Each address of the answer is judged, and the
connection goes to one that passed, as a number: there is no second lookup that could answer otherwise. An address may
be public and still be this host's own; the kernel is asked for that, by the source address that it would use.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Final, Protocol

from clawplane.egress.addresses import Address
from clawplane.egress.hosts import Destination
from clawplane.egress.resolver import CannotResolve, Resolver
from clawplane.egress.rules import Decision, Rules

DIAL_SECONDS: Final = 15.0
_SINGLE_SECONDS: Final = 6.0
_MOST_ADDRESSES: Final = 6


class Denied(Exception):
    """The rules do not let a connection be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A connection, and what the far end had said before it was handed over."""

    connection: socket.socket
    early: bytes = b""


class Way(Protocol):
    """How destinations are reached."""

    async def connect(self, destination: Destination, rules: Rules) -> Reached:
        """Judge and connect; raises Denied, OSError, TimeoutError."""
        ...


def judged(destination: Destination, rules: Rules) -> Decision:
    """Judge before anything is looked up; raises Denied."""
    decision = rules.judge(destination)
    if not decision.allowed:
        raise Denied(decision.reason)
    return decision


class Direct:
    """Over this host's own network."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def connect(self, destination: Destination, rules: Rules) -> Reached:
        """Connect to the first address that is allowed and answers."""
        async with asyncio.timeout(DIAL_SECONDS):
            addresses = await self.vetted(destination, rules)
            return Reached(await _first(addresses[:_MOST_ADDRESSES], destination.port))

    async def vetted(self, destination: Destination, rules: Rules) -> list[Address]:
        """Return the addresses of a destination that may be connected to, at least one."""
        decision = judged(destination, rules)
        found = [destination.address] if destination.address else await self._resolver.addresses(destination.name)
        if decision.anywhere:
            return list(found)
        platforms = await self._forbidden(destination, rules)
        allowed, reason = [], ""
        for address in found:
            verdict = rules.judge_address(destination, address)
            if verdict.allowed and (address in platforms or is_own(address)):
                verdict = Decision(False, "its address belongs to this host or the platform")
            if verdict.allowed:
                allowed.append(address)
            reason = reason or verdict.reason
        if not allowed:
            raise Denied(reason)
        return allowed

    async def _forbidden(self, destination: Destination, rules: Rules) -> set[Address]:
        """Look up what belongs to the platform under the port that is wanted."""
        found: set[Address] = set()
        for pattern in rules.forbidden:
            if pattern.name is not None and pattern.port in {None, destination.port}:
                try:
                    found.update(await self._resolver.addresses(pattern.name))
                except (CannotResolve, TimeoutError):
                    continue  # what has no address cannot be reached by it either
        return found


def is_own(address: Address) -> bool:
    """Tell whether an address is one of this host's: then a packet to it would come from itself."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))  # sends nothing
            return str(probe.getsockname()[0]) == str(address)
    except OSError:
        return False  # no way there at all


async def _first(addresses: list[Address], port: int) -> socket.socket:
    failure: Exception | None = None
    for address in addresses:
        try:
            async with asyncio.timeout(_SINGLE_SECONDS if len(addresses) > 1 else DIAL_SECONDS):
                return await _connected(address, port)
        except (OSError, TimeoutError) as error:
            failure = failure or error
    raise failure or CannotResolve("the name has no address")


async def _connected(address: Address, port: int) -> socket.socket:
    connection = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection
