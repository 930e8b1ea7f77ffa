"""Serve SOCKS5 and HTTP proxying on listening sockets that somebody else made.

Theory of operation. A `Relay` belongs to one session or subtask: whoever can reach its listeners is that guest. Each
connection is a `Client` (clients.py), which converses until it is known what is wanted. Then reading stops, one task
judges and connects (ways.py), and afterwards the two sockets feed each other (pipes.py) without any task. One timer
for all connections ends those that never say what they want and those through which nothing moves. All bytes are
counted as they pass, both ways; the budget is checked at the same place, so nothing beyond it is passed on.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from clawplane.egress.clients import Client, FarEnd, HttpClient, SocksClient
from clawplane.egress.hosts import BadHost, Destination, read_destination
from clawplane.egress.ledger import Entry, Ledger, Verdict
from clawplane.egress.protocol import Credentials, Reply, Wanted
from clawplane.egress.resolver import CannotResolve
from clawplane.egress.rules import Rules
from clawplane.egress.ways import Denied, Reached, Way

UNREADABLE: Final = "(unreadable)"
"""The ledger's host for names that cannot be read."""
_BACKLOG: Final = 128

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Bounds of one relay; times in seconds, `traffic` in bytes both ways together, 0 = unbounded."""

    connections: int = 256
    handshake: float = 10.0
    idle: float = 600.0
    traffic: int = 0


class Relay:
    """The way out of one session or subtask.

    `rules` may be replaced at any time; connections that exist go on. `on_refusal` gets one sentence for the first
    refusal of each host and port; `on_exhausted` is called once, when more than the allowed traffic was wanted.
    """

    def __init__(
        self,
        rules: Rules,
        ledger: Ledger,
        way: Way,
        *,
        limits: RelayLimits | None = None,
        on_refusal: Callable[[str], None] = lambda sentence: None,
        on_exhausted: Callable[[], None] = lambda: None,
    ) -> None:
        self.rules = rules
        self.ledger = ledger
        self.exhausted = False
        self._way = way
        self._limits = limits or RelayLimits()
        self._on_refusal = on_refusal
        self._on_exhausted = on_exhausted
        self._servers: list[asyncio.Server] = []
        self._clients: set[Client] = set()
        self._dialing: set[asyncio.Task[None]] = set()
        self._joining: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def serve_socks(self, listener: socket.socket, credentials: Credentials | None = None) -> None:
        """Accept SOCKS5 clients on a listening socket, which is the relay's from now on."""
        await self._serve(listener, lambda: SocksClient(self, credentials))

    async def serve_http(self, listener: socket.socket, credentials: Credentials | None = None) -> None:
        """Accept HTTP proxy clients on a listening socket, which is the relay's from now on."""
        await self._serve(listener, lambda: HttpClient(self, credentials))

    async def close(self) -> None:
        """Stop listening and break every connection; closing twice is safe."""
        self._closed = True
        for server in self._servers:
            server.close()
        self._cut()
        for task in list(self._dialing):
            task.cancel()
        await asyncio.gather(*self._dialing, *self._joining, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    @property
    def ended(self) -> bool:
        """Tell whether nothing may pass any more."""
        return self._closed or self.exhausted

    @property
    def connections(self) -> int:
        """Return how many clients are connected."""
        return len(self._clients)

    # -- what clients need -------------------------------------------------------------------------------------------

    def admit(self, client: Client) -> bool:
        """Take a new client, unless there are too many."""
        if self.ended or len(self._clients) >= self._limits.connections:
            return False
        self._clients.add(client)
        if self._sweeper is None:
            self._sweep_later()
        return True

    def dismiss(self, client: Client) -> None:
        """Forget a client that is gone."""
        self._clients.discard(client)

    def open(self, client: Client, wanted: Wanted) -> None:
        """Judge and connect for a client, in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._open(client, wanted))
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)

    def pass_on(self, entry: Entry, *, sent: int = 0, received: int = 0) -> bool:
        """Count bytes that are about to pass; False when they exceed the budget and everything was cut."""
        budget = self._limits.traffic
        if budget and self.ledger.total + sent + received > budget:
            self._exhaust()
            return False
        if sent:
            self.ledger.sent(entry, sent)
        if received:
            self.ledger.received(entry, received)
        return True

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _serve(self, listener: socket.socket, make: Callable[[], Client]) -> None:
        listener.setblocking(False)
        self._servers.append(
            await asyncio.get_running_loop().create_server(make, sock=listener, backlog=_BACKLOG, start_serving=True)
        )

    async def _open(self, client: Client, wanted: Wanted) -> None:
        host, port = UNREADABLE, wanted.port
        try:
            destination = read_destination(wanted.host, wanted.port)
            host = destination.name
            reached = await self._way.connect(destination, self.rules)
        except (BadHost, Denied) as refusal:
            self._note(host, port, "denied", str(refusal))
            client.refuse(Reply.NOT_ALLOWED, "403 Forbidden", f"{_shown(host, port)} is not allowed: {refusal}")
        except (OSError, TimeoutError) as failure:
            code, status, reason = _failure(failure)
            self._note(host, port, "failed", reason)
            client.refuse(code, status, f"{_shown(host, port)} cannot be reached: {reason}")
        except Exception:
            _log.exception("egress: a connection failed by a defect")
            client.cut()
        else:
            # Not to be cancelled: a loop that is stopped while it takes a socket over may close it twice. It is brief.
            task = asyncio.get_running_loop().create_task(self._join(client, destination, reached))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    async def _join(self, client: Client, destination: Destination, reached: Reached) -> None:
        entry, _ = self.ledger.note(destination.name, destination.port, "allowed")
        far = FarEnd(self, client, entry, reached.early)
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, sock=reached.connection)
        except Exception:  # whatever it was, a client that waits for its answer must not wait for ever
            _log.exception("egress: a connection could not be joined")
            client.cut()
            return
        far.settle()

    def _note(self, host: str, port: int, verdict: Verdict, reason: str) -> None:
        _, first = self.ledger.note(host, port, verdict, reason)
        if first:
            what = "is not allowed" if verdict == "denied" else "cannot be reached"
            self._on_refusal(f"{_shown(host, port)} {what}: {reason}.")

    def _exhaust(self) -> None:
        if not self.exhausted:
            self.exhausted = True
            self._cut()
            self._on_exhausted()

    def _cut(self) -> None:
        for client in list(self._clients):
            client.cut()

    def _sweep_later(self) -> None:
        every = min(self._limits.handshake, self._limits.idle) / 4
        self._sweeper = asyncio.get_running_loop().call_later(every, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for client in list(self._clients):
            limit = self._limits.idle if client.joined else self._limits.handshake
            if not client.deciding and now - client.moved_at > limit:
                client.cut()
        if self._clients:
            self._sweep_later()


def _failure(failure: Exception) -> tuple[Reply, str, str]:
    """Return the SOCKS5 code, the HTTP status and the words for a connection that did not come about."""
    if isinstance(failure, CannotResolve):
        return Reply.HOST_UNREACHABLE, "502 Bad Gateway", str(failure)
    if isinstance(failure, TimeoutError):
        return Reply.TIMED_OUT, "504 Gateway Timeout", "it did not answer in time"
    number = failure.errno if isinstance(failure, OSError) else None
    if number == errno.ECONNREFUSED:
        return Reply.REFUSED, "502 Bad Gateway", "the connection was refused"
    if number == errno.ENETUNREACH:
        return Reply.NETWORK_UNREACHABLE, "502 Bad Gateway", "this host has no way to its network"
    if number == errno.EHOSTUNREACH:
        return Reply.HOST_UNREACHABLE, "502 Bad Gateway", "the host is unreachable"
    return Reply.FAILED, "502 Bad Gateway", str(failure) if number is None else "the connection failed"


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
