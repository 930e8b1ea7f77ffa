"""What nobody reaches from inside a real session, in whatever spelling and by whatever way (attack list, item 32).

A listener on all addresses of this host stands for everything that is not meant for sessions; it notes who comes.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

import httpx
import pytest
from outside import Outside, Session, entries, new_session, only_entry, own_name

LOOPBACK, PRIVATE, METADATA = "a loopback address", "a private address", "a cloud metadata address"
SHARED, LINK, CASTING = "a carrier's shared address", "a link-local address", "a multicast or broadcast address"
EMBEDDING = "an address that embeds another"
MAPPED = str(IPv6Address("::ffff:127.0.0.1"))  # not every Python writes it in the same way

SPELLINGS: dict[str, tuple[str, str]] = {
    "127.0.0.1": ("127.0.0.1", LOOPBACK),
    "127.0.0.1.": ("127.0.0.1", LOOPBACK),
    "127.1": ("127.0.0.1", LOOPBACK),
    "127.8.9.10": ("127.8.9.10", LOOPBACK),
    "0x7f000001": ("127.0.0.1", LOOPBACK),
    "0X7F.0.1": ("127.0.0.1", LOOPBACK),
    "2130706433": ("127.0.0.1", LOOPBACK),
    "0177.0.0.1": ("127.0.0.1", LOOPBACK),
    "0.0.0.0": ("0.0.0.0", LOOPBACK),
    "0": ("0.0.0.0", LOOPBACK),
    "[::]": ("::", LOOPBACK),
    "[::1]": ("::1", LOOPBACK),
    "[0:0:0:0:0:0:0:1]": ("::1", LOOPBACK),
    "[::127.0.0.1]": ("::7f00:1", EMBEDDING),
    "[::ffff:127.0.0.1]": (MAPPED, EMBEDDING),
    "[::ffff:7f00:1]": (MAPPED, EMBEDDING),
    "[64:ff9b::7f00:1]": ("64:ff9b::7f00:1", EMBEDDING),
    "[2002:7f00:1::]": ("2002:7f00:1::", EMBEDDING),
    "169.254.169.254": ("169.254.169.254", METADATA),
    "0xa9fea9fe": ("169.254.169.254", METADATA),
    "[fd00:ec2::254]": ("fd00:ec2::254", METADATA),
    "100.100.100.200": ("100.100.100.200", METADATA),
    "168.63.129.16": ("168.63.129.16", METADATA),
    "169.254.0.1": ("169.254.0.1", LINK),
    "[fe80::1]": ("fe80::1", LINK),
    "10.0.0.1": ("10.0.0.1", PRIVATE),
    "172.17.0.1": ("172.17.0.1", PRIVATE),
    "192.168.1.1": ("192.168.1.1", PRIVATE),
    "[fd00::]": ("fd00::", PRIVATE),
    "100.64.0.1": ("100.64.0.1", SHARED),
    "224.0.0.1": ("224.0.0.1", CASTING),
    "255.255.255.255": ("255.255.255.255", CASTING),
}
NAMES = {"localhost": "localhost", "localhost.": "localhost", "LocalHost": "localhost"}

WAYS = r"""
import ipaddress, json, os, socket
def talk(port, *parts):
    said = b""
    with socket.create_connection(("127.0.0.1", port), 20) as proxy:
        for part in parts:
            proxy.sendall(part)
            said = proxy.recv(65536)
        return said
def http(request):
    said = talk(3128, f"{request} HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n\r\n".encode())
    return [said.split()[1].decode(), said.decode().splitlines()[-1]]
def socks(kind, host):
    said = talk(1080, b"\x05\x01\x00", b"\x05\x01\x00" + kind + host + PORT.to_bytes(2, "big"))
    return said[1]
def direct():
    try:
        socket.create_connection((BARE, PORT), 5).close()
        return "connected"
    except OSError as error:
        return type(error).__name__
BARE = HOST.strip("[]")
found = {
    "CONNECT": http(f"CONNECT {HOST}:{PORT}"),
    "GET": http(f"GET http://{HOST}:{PORT}/"),
    "name": socks(b"\x03", bytes([len(BARE)]) + BARE.encode()),
    "direct": direct(),
}
try:
    address = ipaddress.ip_address(BARE)
    found["address"] = socks(b"\x01" if address.version == 4 else b"\x04", address.packed)
except ValueError:
    pass  # no address in the usual spelling
print(json.dumps(found))
"""


@dataclass
class Canary:
    """A listener on all addresses of this host, which nobody may reach."""

    port: int
    visits: list[Any] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)

    def watch(self, listener: socket.socket) -> None:
        while True:
            connection, peer = listener.accept()
            connection.close()
            if self.came.is_set():
                self.visits.append(peer)
            self.came.set()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    if socket.has_dualstack_ipv6():
        listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        listener = socket.create_server(("", 0))
    canary = Canary(listener.getsockname()[1])
    thread = threading.Thread(target=_until_closed, args=(canary, listener))
    thread.start()
    with socket.create_connection(("127.0.0.1", canary.port)):
        assert canary.came.wait(10)  # it notes who comes; what comes now is no visit of ours
    yield canary
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()
    assert canary.visits == []


def _until_closed(canary: Canary, listener: socket.socket) -> None:
    try:
        canary.watch(listener)
    except OSError:
        return


@pytest.fixture(scope="module")
def session(open_http: httpx.Client) -> Session:
    return new_session(open_http)


def tried(session: Session, host: str, port: int) -> tuple[dict[str, Any], dict[tuple[str, int], Any]]:
    """Try all ways to a host, and return what came of them, and the answer's ledger by place."""
    result = session.run("python", f"HOST, PORT = {host!r}, {port}\n{WAYS}")
    assert result["error"] is None, result["stderr"]
    found: dict[str, Any] = json.loads(result["stdout"])
    return found, entries(result)


def all_refused(session: Session, host: str, port: int, name: str, why: str) -> None:
    """Try all ways to a host, and see each of them refused with its reason, and in the ledger."""
    found, ledger = tried(session, host, port)
    shown = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    sentence = ["403", f"clawplane: {shown} is not allowed: {why}."]
    assert found.pop("direct") != "connected"
    assert found.pop("CONNECT") == sentence
    assert found.pop("GET") == sentence
    assert set(found.values()) == {2}, found  # "not allowed by the rules" in SOCKS5
    assert list(ledger) == [(name, port)]
    entry = ledger[name, port]
    assert (entry["verdict"], entry["reason"], entry["connections"]) == ("denied", why, 2 + len(found))
    assert (entry["sent"], entry["received"]) == (0, 0)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_an_address_that_is_not_public_is_reached_by_any_way(
    session: Session, canary: Canary, spelling: str
) -> None:
    name, kind = SPELLINGS[spelling]
    all_refused(session, spelling, canary.port, name, f"it is {kind}")
    assert canary.visits == []


@pytest.mark.parametrize("spelling", NAMES)
def test_a_name_that_leads_to_this_host_is_looked_up_and_refused_for_its_address(
    session: Session, canary: Canary, spelling: str
) -> None:
    all_refused(session, spelling, canary.port, NAMES[spelling], f"it resolves to {LOOPBACK}")
    assert canary.visits == []


def test_the_metadata_server_is_not_reached_by_its_name(session: Session) -> None:
    found, ledger = tried(session, "metadata.google.internal", 80)
    assert found["direct"] != "connected"
    assert found["CONNECT"][0] in {"403", "502", "504"}
    assert ledger["metadata.google.internal", 80]["verdict"] in {"denied", "failed"}  # few hosts know the name
    assert ledger["metadata.google.internal", 80]["received"] == 0


def test_no_address_of_this_host_is_reached_whatever_network_it_is_of(session: Session, canary: Canary) -> None:
    addresses = {own_name()[1]}
    for family, far in ((socket.AF_INET, "192.0.2.200"), (socket.AF_INET6, "2001:db8::200")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))  # sends nothing; asks which address would be used
                addresses.add(probe.getsockname()[0])
        except OSError:
            continue
    for address in addresses:
        found, ledger = tried(session, f"[{address}]" if ":" in address else address, canary.port)
        assert found["direct"] != "connected"
        assert found["CONNECT"][0] == found["GET"][0] == "403"
        assert found["name"] == found["address"] == 2
        assert {entry["verdict"] for entry in ledger.values()} == {"denied"}
    assert canary.visits == []


def test_the_control_plane_is_reached_under_none_of_its_names(
    session: Session, open_plane: Any, outside: Outside
) -> None:
    all_refused(session, "127.0.0.1", open_plane.port, "127.0.0.1", "it belongs to the platform")
    for name in {"localhost", "127.1", outside.name}:
        found, ledger = tried(session, name, open_plane.port)
        assert found["direct"] != "connected"
        assert (found["CONNECT"][0], found["GET"][0], found["name"]) == ("403", "403", 2)
        assert {entry["verdict"] for entry in ledger.values()} == {"denied"}


def test_the_server_that_is_allowed_by_its_name_stays_closed_by_its_address_and_other_ports(
    session: Session, outside: Outside, canary: Canary
) -> None:
    assert session.run("shell", f"curl -sSf {outside.url}/page | wc -c")["stdout"].strip() == "5000"
    for spelling in ("127.0.0.1", "localhost", "[::1]"):
        found, _ = tried(session, spelling, outside.port)
        assert (found["CONNECT"][0], found["GET"][0], found["name"]) == ("403", "403", 2)
    found, _ = tried(session, outside.name, canary.port)
    assert (found["CONNECT"][0], found["GET"][0], found["name"]) == ("403", "403", 2)
    assert canary.visits == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "2130706433", "169.254.169.254", "plane"])
def test_a_redirect_of_an_allowed_server_leads_nowhere_else(
    session: Session, outside: Outside, canary: Canary, open_plane: Any, host: str
) -> None:
    place = f"127.0.0.1:{open_plane.port}" if host == "plane" else f"{host}:{canary.port}"
    command = f"curl -sL -w '%{{http_code}}' '{outside.url}/redirect?http://{place}/'"
    by_itself = session.run("shell", command)
    proxied = session.run("shell", f"unset NO_PROXY no_proxy; {command}")
    assert proxied["stdout"].endswith(".\n403"), proxied
    assert "is not allowed: " in proxied["stdout"]
    itself = by_itself["error"] == "exit code 7"  # NO_PROXY: the session's own loopback, where nobody listens
    assert itself or by_itself["stdout"].endswith(".\n403"), by_itself
    for result in (by_itself, proxied):
        allowed = [entry for entry in result["egress"] if entry["verdict"] == "allowed"]
        assert [(entry["host"], entry["port"]) for entry in allowed] == [(outside.name, outside.port)]
    assert canary.visits == []


DIRECT = {
    "python": """
import socket
for family, kind, place in (
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PORT)),
    (socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", PORT)),
    (socket.AF_INET6, socket.SOCK_STREAM, ("2001:db8::1", PORT)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.53", 53)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("169.254.169.254", 53)),
):
    try:
        with socket.socket(family, kind) as own:
            own.settimeout(5)
            own.connect(place)
            own.send(b"anybody there?")
            print("connected", place)
    except OSError:
        print("nowhere")
try:
    print("looked up", socket.getaddrinfo("example.com", 80))
except OSError:
    print("nowhere")
""",
    "shell": """
for place in 127.0.0.1/PORT 192.0.2.1/PORT 169.254.169.254/80 example.com/80; do
    if (exec 3<>/dev/tcp/$place) 2>/dev/null; then echo connected $place; else echo nowhere; fi
done
if (echo hello >/dev/udp/192.0.2.53/53) 2>/dev/null; then echo connected; else echo nowhere; fi
curl -s --noproxy '*' -m 10 -o /dev/null http://192.0.2.1/ && echo connected || echo nowhere
""",
    "node": """
const net = require('net')
for (const [host, port] of [['127.0.0.1', PORT], ['192.0.2.1', PORT], ['2001:db8::1', PORT], ['example.com', 80],
                            ['169.254.169.254', 80], ['0.0.0.0', PORT]]) {
  const own = net.connect({host, port}, () => { console.log('connected', host); own.destroy() })
  own.on('error', () => console.log('nowhere'))
}
""",
}


@pytest.mark.parametrize("tool", DIRECT)
def test_a_socket_without_the_proxy_goes_nowhere(session: Session, canary: Canary, tool: str) -> None:
    result = session.run(tool, DIRECT[tool].replace("PORT", str(canary.port)))
    assert result["stdout"] == "nowhere\n" * 6, result
    assert result["egress"] == []
    assert canary.visits == []


def test_a_session_that_allows_itself_what_is_not_public_gains_nothing(
    open_http: httpx.Client, outside: Outside, canary: Canary, open_plane: Any
) -> None:
    own = ["127.0.0.0/8", "localhost", "10.0.0.0/8", f"127.0.0.1:{open_plane.port}", "[::1]", "*"]
    session = new_session(open_http, egress={"mode": "listed", "allow": own})
    all_refused(session, "127.0.0.1", canary.port, "127.0.0.1", f"it is {LOOPBACK}")
    all_refused(session, "localhost", canary.port, "localhost", f"it resolves to {LOOPBACK}")
    all_refused(session, "127.0.0.1", open_plane.port, "127.0.0.1", "it belongs to the platform")
    all_refused(session, "10.0.0.1", canary.port, "10.0.0.1", f"it is {PRIVATE}")


def test_a_session_narrows_what_the_operator_allows(open_http: httpx.Client, outside: Outside) -> None:
    for rules, why in (
        ({"mode": "none"}, "connections to the outside are switched off"),
        ({"mode": "listed", "allow": ["other.example"]}, "it is not on the allow list"),
        ({"deny": [outside.name]}, "it is on the deny list"),
    ):
        session = new_session(open_http, egress=rules)
        result = session.run("shell", f"curl -s {outside.url}/page")
        assert result["stdout"] == f"clawplane: {outside.name}:{outside.port} is not allowed: {why}.\n"
        entry = only_entry(result, outside.name, outside.port)
        assert (entry["verdict"], entry["reason"]) == ("denied", why)
