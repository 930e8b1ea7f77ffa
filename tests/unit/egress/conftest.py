"""A relay on real sockets, a far end on loopback, and clients that speak raw bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
import uvloop

from clawplane.egress.addresses import Address
from clawplane.egress.ledger import Ledger
from clawplane.egress.protocol import Credentials
from clawplane.egress.relay import Relay, RelayLimits
from clawplane.egress.resolver import CannotResolve, Resolver
from clawplane.egress.rules import OperatorRules, Rules
from clawplane.egress.ways import Direct, Way

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOOPBACK = ip_address("127.0.0.1")


@dataclass
class Names:
    """A resolver's source whose answers a test writes; every question is noted."""

    answers: dict[str, list[tuple[Address, ...]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> tuple[Address, ...]:
        self.asked.append(name)
        answers = self.answers.get(name)
        if not answers:
            raise CannotResolve("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class Outside:
    """One relay with both kinds of listener, and the way to talk to it."""

    relay: Relay
    socks_port: int
    http_port: int
    refusals: list[str]
    exhausted: asyncio.Event

    async def open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port)

    async def socks(self, host: str, port: int) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask for a host by name; return the reply code and the connection."""
        reader, writer = await self.open(self.socks_port)
        writer.write(b"\x05\x01\x00" + request(host, port))
        async with asyncio.timeout(30):
            assert await reader.readexactly(2) == b"\x05\x00"
            code = (await reader.readexactly(10))[1]
        return code, reader, writer

    async def http(self, text: bytes) -> bytes:
        """Send bytes to the HTTP proxy and return all that it answers."""
        reader, writer = await self.open(self.http_port)
        writer.write(text)
        try:
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()


def request(host: str, port: int) -> bytes:
    name = host.encode()
    return b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big")


@pytest.fixture
def names() -> Names:
    return Names({"far.example": [(LOOPBACK,)], "localhost": [(LOOPBACK,)]})


@pytest.fixture
async def resolver(names: Names) -> AsyncIterator[Resolver]:
    resolver = Resolver(names)
    yield resolver
    await resolver.close()


@pytest.fixture
async def far() -> AsyncIterator[Callable[[Serve], Awaitable[int]]]:
    """Start servers on loopback; return their ports."""
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def start(serve: Serve) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()
    for writer in writers:
        writer.close()


@pytest.fixture
async def outside(resolver: Resolver) -> AsyncIterator[Callable[..., Awaitable[Outside]]]:
    """Make relays; each is closed with the test."""
    made: list[Relay] = []

    async def make(
        *,
        rules: Rules | None = None,
        trusted: tuple[str, ...] = ("far.example",),
        way: Way | None = None,
        limits: RelayLimits | None = None,
        credentials: Credentials | None = None,
    ) -> Outside:
        refusals: list[str] = []
        exhausted = asyncio.Event()
        relay = Relay(
            rules or OperatorRules.read(trusted_hosts=trusted).rules(),
            Ledger(),
            way or Direct(resolver),
            limits=limits,
            on_refusal=refusals.append,
            on_exhausted=exhausted.set,
        )
        made.append(relay)
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [listener.getsockname()[1] for listener in listeners]
        await relay.serve_socks(listeners[0], credentials)
        await relay.serve_http(listeners[1], credentials)
        return Outside(relay, *ports, refusals, exhausted)

    yield make
    for relay in made:
        await relay.close()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on the loop that the runner uses, too."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
