"""What the attacks on the network are made with: a listener that nobody may reach, and words to the proxy.

Theory of operation. What a guest says of itself proves nothing, so a listener of this host (`Canary`) stands for
everything that is not meant for sessions. It answers TCP and UDP, notes who comes, and is asked last: its own knock
queues behind every visitor, so once that is heard nobody can still be waiting.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from clawplane.cli.live_attacks.items import NotTried, must
from clawplane.cli.live_attacks.plane import LiveSession, said

_KNOCK_SECONDS: Final = 5.0
REFUSED: Final = 2
"""What SOCKS5 calls "not allowed by the rules"."""

TALK: Final = r"""
import errno, ipaddress, json, select, socket
KINDS = {4: b"\x01", 6: b"\x04"}
def talk(port, *parts):
    heard = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as proxy:
            for part in parts:
                proxy.sendall(part)
                heard = proxy.recv(65536)
    except OSError as problem:
        return heard or type(problem).__name__.encode()
    return heard
def http(request):
    words = talk(3128, request).split()
    return words[1].decode() if len(words) > 1 else "cut"
def socks(request):
    heard = talk(1080, b"\x05\x01\x00", request)
    return heard[1] if heard[:1] == b"\x05" and len(heard) > 2 else "cut"
def outcome(function):
    try:
        function()
    except OSError as problem:
        return errno.errorcode.get(problem.errno, type(problem).__name__)
    return "done"
def reached(place, kind=socket.SOCK_STREAM, words=b"anybody there?"):
    with socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, kind) as own:
        own.settimeout(2)
        return outcome(lambda: (own.connect(place), own.send(words), own.recv(64)))
def ways(host, port):
    bare, place = host.strip("[]"), port.to_bytes(2, "big")
    found = {
        "CONNECT": http(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()),
        "GET": http(f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()),
        "name": socks(b"\x05\x01\x00\x03" + bytes([len(bare)]) + bare.encode() + place),
    }
    try:
        address = ipaddress.ip_address(bare)
        found["address"] = socks(b"\x05\x01\x00" + KINDS[address.version] + address.packed + place)
    except ValueError:
        pass  # no address in the usual spelling
    return found
"""
"""What the guest's attacks are written with."""


class Canary(asyncio.DatagramProtocol):
    """A listener on this host's loopback, TCP and UDP under one port, which no session may reach."""

    def __init__(self) -> None:
        self.port = 0
        self.visitors: list[str] = []
        self._own: dict[Any, asyncio.Event] = {}

    async def visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Note who connects."""
        self._note(("tcp", writer.get_extra_info("peername")))
        writer.write(b"the host is here\n")
        writer.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Note who sends."""
        self._note(("udp", addr))

    async def heard_nobody(self, session: str) -> None:
        """Raise Broken when somebody came before this knock."""
        for way, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
            with socket.socket(socket.AF_INET, kind) as own:
                own.setblocking(False)
                own.bind(("127.0.0.1", 0))
                heard = self._own[way, own.getsockname()] = asyncio.Event()
                await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", self.port))
                await asyncio.get_running_loop().sock_sendall(own, b"knock")
                await asyncio.wait_for(heard.wait(), _KNOCK_SECONDS)
        must(not self.visitors, f"a listener on this host's loopback was reached {session}: {self.visitors[:3]}")

    def _note(self, visitor: tuple[str, Any]) -> None:
        own = self._own.get(visitor)
        if own is None:
            self.visitors.append(f"{visitor[0]} from {visitor[1]}")
        else:
            own.set()


@asynccontextmanager
async def listening_canary() -> AsyncIterator[Canary]:
    """Listen until the block ends; raises NotTried when this host's loopback cannot be listened on."""
    canary = Canary()
    try:
        server = await asyncio.start_server(canary.visited, "127.0.0.1", 0)
        canary.port = server.sockets[0].getsockname()[1]
        place = ("127.0.0.1", canary.port)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: canary, local_addr=place)
    except OSError as error:
        raise NotTried(f"nothing can listen on this host's loopback: {error}") from None
    try:
        await canary.heard_nobody("before the attack")
        yield canary
    finally:
        transport.close()
        server.close()


async def found_by(session: LiveSession, code: str) -> tuple[Any, list[dict[str, Any]]]:
    """Run an attack, and return what it prints as JSON and what the session's ledger says; raises Broken."""
    result = await session.python(TALK + code, timeout=60)
    must(result.get("error") is None, f"the attack did not run: {said(result)}")
    return json.loads(result["stdout"]), result["egress"]


def nothing_passed(ledger: list[dict[str, Any]], fewest: int) -> None:
    """Raise Broken unless every connection was refused and noted, with no byte either way."""
    passed = [each for each in ledger if each["verdict"] == "allowed" or each["sent"] or each["received"]]
    must(not passed, f"the proxy let it pass: {passed[:3]}")
    noted = sum(each["connections"] for each in ledger)
    must(noted >= fewest, f"the ledger notes {noted} of at least {fewest} attempts")


def all_refused(found: dict[str, dict[str, Any]], *, unknown: bool = False) -> None:
    """Raise Broken unless every way to every host is forbidden; `unknown`: this host may not know the name."""
    fine = {"403", REFUSED, "502", 4} if unknown else {"403", REFUSED}
    for host, answers in found.items():
        must(set(answers.values()) <= fine, f"the proxy did not forbid {host}: {answers}")


def own_addresses() -> list[str]:
    """Return this host's addresses towards other networks, IPv6 in brackets; nothing is sent."""
    found = []
    for family, far in ((socket.AF_INET, "192.0.2.200"), (socket.AF_INET6, "2001:db8::200")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))
                address = str(probe.getsockname()[0])
                found.append(f"[{address}]" if ":" in address else address)
        except OSError:
            continue
    return found
