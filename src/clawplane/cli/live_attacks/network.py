"""Attacks from inside live sessions on what lies outside: names, the proxy, ports and the limits of connections.

While everything holds, nothing is sent beyond this host: the names that are asked for are refused unseen, and other
addresses than this host's and its name servers' are private, or reserved for documentation.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from clawplane.cli.live_attacks.items import LiveAttack, NotTried, listed, must
from clawplane.cli.live_attacks.plane import PrivatePlane
from clawplane.cli.live_attacks.ways_out import (
    REFUSED,
    all_refused,
    found_by,
    listening_canary,
    nothing_passed,
    own_addresses,
)

_SECONDS: Final = 5.0
_CONNECTIONS: Final = 256
"""How many connections a session may hold at its proxy (docs/flows/egress.md)."""
_BEYOND: Final = 24

_SPELLINGS: Final = (
    *("127.0.0.1", "127.0.0.1.", "127.1", "127.8.9.10", "0x7f000001", "0X7F.0.1", "2130706433", "0177.0.0.1"),
    "0.0.0.0",  # noqa: S104 - asked for, not bound
    *("0", "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]"),
    *("[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254", "0xa9fea9fe"),
    *("[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "169.254.0.1", "[fe80::1]", "10.0.0.1"),
    *("172.17.0.1", "192.168.1.1", "[fd00::]", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
)
_NAMES: Final = ("localhost", "localhost.", "LocalHost")


def _name_servers() -> list[str]:
    """Return the name servers that this host asks, and usual places of others."""
    servers = {"127.0.0.1", "127.0.0.53", "192.0.2.53", "2001:db8::53", "169.254.169.254"}
    try:
        lines = Path("/etc/resolv.conf").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    servers.update(each[1].partition("%")[0] for each in words if len(each) > 1 and each[0] == "nameserver")
    return sorted(servers)


def _port(plane: PrivatePlane) -> int:
    port = urlsplit(plane.url).port
    if port is None:
        raise NotTried("the control plane's port is not known")
    return port


async def _asks_name_servers(plane: PrivatePlane) -> None:
    session, secret = await plane.begin(), secrets.token_hex(20)
    async with listening_canary() as canary:
        code = f"""
query = b"\\x12\\x34\\x01\\x00\\x00\\x01" + bytes(6) + b"\\x28{secret}\\x07invalid\\x00\\x00\\x01\\x00\\x01"
framed = len(query).to_bytes(2, "big") + query
places = [(server, 53) for server in {_name_servers()!r}] + [("127.0.0.1", {canary.port})]
found = {{}}
for place in places:
    found[f"udp {{place[0]}}"] = reached(place, socket.SOCK_DGRAM, query)
    found[f"tcp {{place[0]}}"] = reached(place, socket.SOCK_STREAM, framed)
for name in ("{secret}.invalid", "localhost.{secret}.invalid"):
    found[name] = outcome(lambda: socket.getaddrinfo(name, 80))
print(json.dumps(found))
"""
        found, ledger = await found_by(session, code)
        answered = {place: how for place, how in found.items() if how in {"done", "TimeoutError", "ETIMEDOUT"}}
        must(not answered, f"packets left the session, or a name server answered: {answered}")  # silence is no refusal
        must(ledger == [], f"the proxy was used, although nobody asked it: {ledger[:2]}")
        await canary.heard_nobody("by a name server's protocol")


async def _hides_data_in_names(plane: PrivatePlane) -> None:
    session = await plane.begin(egress={"mode": "listed", "allow": ["allowed.invalid"]})
    labels = ".".join(secrets.token_hex(31) for _ in range(3))
    found, ledger = await found_by(
        session,
        f"""
names = [f"{labels}.{{end}}" for end in ("invalid", "allowed.invalid", "allowed.invalid.")]
names += ["notallowed.invalid", "allowed.invalid.evil.invalid"]
print(json.dumps({{name: ways(name, 443) for name in names}}))
""",
    )
    all_refused(found)
    nothing_passed(ledger, 15)
    reasons = {each["reason"] for each in ledger}
    must(reasons == {"it is not on the allow list"}, f"a name was not refused before it was looked up: {reasons}")


async def _spells_addresses(plane: PrivatePlane) -> None:
    session = await plane.begin()
    async with listening_canary() as canary:
        code = f"print(json.dumps({{host: ways(host, {canary.port}) for host in {_SPELLINGS!r}}}))"
        found, ledger = await found_by(session, code)
        all_refused(found)
        nothing_passed(ledger, 3 * len(_SPELLINGS))
        await canary.heard_nobody("through the proxy")


async def _names_this_host(plane: PrivatePlane) -> None:
    session = await plane.begin()
    async with listening_canary() as canary:
        code = "print(json.dumps([{{host: ways(host, {0}) for host in hosts}} for hosts in ({1!r}, {2!r})]))"
        (named, own), ledger = await found_by(session, code.format(canary.port, _NAMES, own_addresses()))
        all_refused(named, unknown=True)
        all_refused(own)
        nothing_passed(ledger, 3 * len(_NAMES))
        await canary.heard_nobody("through the proxy")


async def _calls_the_control_plane(plane: PrivatePlane) -> None:
    session, port = await plane.begin(), _port(plane)
    hosts = ["127.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", *own_addresses()]
    code = "print(json.dumps([{{host: ways(host, {0}) for host in hosts}} for hosts in ({1!r}, ['localhost'])]))"
    (found, named), ledger = await found_by(session, code.format(port, hosts))
    all_refused(found)
    all_refused(named, unknown=True)
    nothing_passed(ledger, 3 * len(hosts))
    reasons = {each["reason"] for each in ledger if each["host"] == "127.0.0.1"}
    must(reasons == {"it belongs to the platform"}, f"the control plane is closed for another reason only: {reasons}")
    direct, _ = await found_by(session, f"print(json.dumps(reached(('127.0.0.1', {port}))))")
    must(direct == "ECONNREFUSED", f"without the proxy the control plane's port is not closed: {direct}")


async def _opens_its_own_rules(plane: PrivatePlane) -> None:
    port = _port(plane)
    async with listening_canary() as canary:
        own = ["*", "127.0.0.0/8", "localhost", "[::1]", "10.0.0.0/8", f"127.0.0.1:{port}", f"localhost:{canary.port}"]
        session = await plane.begin(egress={"mode": "listed", "allow": own})
        code = "print(json.dumps([ways('127.0.0.1', {0}), ways('10.0.0.1', {0}), ways('127.0.0.1', {1}), {2}]))"
        named = f"ways('localhost', {canary.port})"
        (loopback, private, platform, localhost), ledger = await found_by(
            session, code.format(canary.port, port, named)
        )
        all_refused({"loopback": loopback, "a private address": private, "the control plane": platform})
        all_refused({"localhost": localhost}, unknown=True)
        nothing_passed(ledger, 15)
        await canary.heard_nobody("by a session that allowed it to itself")


async def _confuses_the_proxy(plane: PrivatePlane) -> None:
    session = await plane.begin(egress={"mode": "listed", "allow": ["allowed.invalid:443"]})
    async with listening_canary() as canary:
        code = f"""
here = "127.0.0.1:{canary.port}"
hosts = [
    here, f"allowed.invalid@{{here}}", f"evil@{{here}}", "allowed.invalid:22", "ALLOWED.INVALID.:22",
    "xn--allowed-.invalid:443",
    f"{{here}}#allowed.invalid:443", f"{{here}}\\0.allowed.invalid:443", f"{{here}}%00allowed.invalid:443",
    f"{{here}}\\r\\nX: allowed.invalid:443", "\\u0430llowed.invalid:443",
]
end = "\\r\\n\\r\\n"
asked = [f"{{what}} HTTP/1.1\\r\\nHost: {{named}}" + end for host in hosts for named in (host, "allowed.invalid:443")
         for what in (f"CONNECT {{host}}", f"GET http://{{host}}/")] + [
    f"GET / HTTP/1.1\\r\\nHost: {{here}}" + end,
    f"GET http://allowed.invalid:22/ HTTP/1.1\\r\\nHost: allowed.invalid:22{{end}}"
    f"GET http://{{here}}/ HTTP/1.1\\r\\nHost: {{here}}" + end,
    f"POST http://{{here}}/ HTTP/1.1\\r\\nHost: {{here}}\\r\\n"
    f"Content-Length: 4\\r\\nTransfer-Encoding: chunked{{end}}0" + end,
]
names = [b"127.0.0.1\\0.allowed.invalid", b"allowed.invalid\\0", b"127.0.0.1\\r\\n", b"evil@127.0.0.1"]
names += [b"", b"\\xff" * 255]
place = ({canary.port}).to_bytes(2, "big")
print(json.dumps([
    [http(each.encode()) for each in asked],
    [socks(b"\\x05\\x01\\x00\\x03" + bytes([len(each)]) + each + place) for each in names],
]))
"""
        (http, socks), ledger = await found_by(session, code)
        must(set(http) <= {"400", "403", "cut"}, f"the HTTP proxy was confused: {http}")
        must(set(socks) <= {1, REFUSED, "cut"}, f"the SOCKS proxy was confused: {socks}")
        must("403" in http, f"the proxy judged nothing of what it was asked: {http}")
        nothing_passed(ledger, 1)
        await canary.heard_nobody("by a request that confuses the proxy")


async def _goes_around_the_proxy(plane: PrivatePlane) -> None:
    session = await plane.begin()
    async with listening_canary() as canary:
        hosts = ["127.0.0.1", "0", "192.0.2.1", "169.254.169.254", "::1", "2001:db8::1"]
        hosts += [each.strip("[]") for each in own_addresses()]
        code = f"""
found = {{}}
for host in {hosts!r}:
    found[host] = [reached((host, {canary.port}), kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
print(json.dumps(found))
"""
        found, ledger = await found_by(session, code)
        left = {host: how for host, how in found.items() if {"done", "TimeoutError", "ETIMEDOUT"} & set(how)}
        must(not left, f"a socket without the proxy leads somewhere: {left}")
        must(ledger == [], f"the ledger notes what nobody asked the proxy for: {ledger[:2]}")
        await canary.heard_nobody("without the proxy")


_LISTEN: Final = """
held = []
def listen(family, place):
    one = socket.socket(family)
    one.bind(place)
    one.listen()
    one.setblocking(False)
    held.append(one)
def came():
    return [str(one.getsockname()) for one in held if outcome(one.accept) == "done"]
"""


async def _listens_for_the_host(plane: PrivatePlane) -> None:
    session = await plane.begin()
    with socket.socket() as taken:  # nobody else of this host gets the port meanwhile, and nobody answers there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        ports = (port, _port(plane))
        code = f"for port in {ports!r}: listen(socket.AF_INET, ('0.0.0.0', port))\nprint(json.dumps(len(held)))"
        listening, _ = await found_by(session, _LISTEN + code)
        must(listening == len(ports), f"{listening} of {len(ports)} ports could be listened on inside")
        for host in ("127.0.0.1", *(each for each in own_addresses() if "[" not in each)):
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _SECONDS)
                writer.close()
            except (OSError, TimeoutError):
                continue
            must(host != "127.0.0.1", f"port {port} of a session answers on this host's {host}")
        must(await plane.healthy(), "a session took the control plane's port")
        visitors, _ = await found_by(session, "print(json.dumps(came()))")
        must(visitors == [], f"a session's listener was reached from the host: {visitors}")


async def _listens_for_a_neighbour(plane: PrivatePlane) -> None:
    first, second, name = await plane.begin(), await plane.begin(), secrets.token_hex(8)
    code = f"""
for host in ("0.0.0.0", "127.0.0.1"): listen(socket.AF_INET, (host, 0))
listen(socket.AF_UNIX, "\\0clawplane-{name}")
print(json.dumps([one.getsockname()[1] for one in held[:2]]))
"""
    ports, _ = await found_by(first, _LISTEN + code)
    itself, _ = await found_by(
        first, f"print(json.dumps(outcome(socket.create_connection(('127.0.0.1', {ports[0]})).close)))"
    )
    must(itself == "done", f"a session cannot reach its own listener: {itself}")
    await found_by(first, "print(json.dumps(came()))")
    code = f"""
own = socket.socket(socket.AF_UNIX)
print(json.dumps([
    [reached(("127.0.0.1", port)) for port in {ports!r}] + [outcome(lambda: own.connect("\\0clawplane-{name}"))],
    {{str(port): ways("127.0.0.1", port) for port in {ports!r}}},
]))
"""
    (direct, proxied), ledger = await found_by(second, code)
    must(set(direct) == {"ECONNREFUSED"}, f"a neighbour reached a session's listener: {direct}")
    all_refused(proxied)
    nothing_passed(ledger, 4 * len(ports))
    visitors, _ = await found_by(first, "print(json.dumps(came()))")
    must(visitors == [], f"a session's listener was reached by a neighbour: {visitors}")


async def _has_the_proxy_listen(plane: PrivatePlane) -> None:
    session = await plane.begin()
    code = "print(json.dumps([socks(bytes([5, command, 0, 1]) + bytes(6)) for command in (2, 3, 4, 0xF0, 0xF1)]))"
    found, ledger = await found_by(session, code)
    must(0 not in found, f"the proxy listens for a session (BIND, UDP ASSOCIATE, RESOLVE): {found}")
    nothing_passed(ledger, 0)


async def _holds_connections(plane: PrivatePlane) -> None:
    session, neighbour = await plane.begin(), await plane.begin()
    code = f"""
crowd, waiting, ended = [], select.poll(), set()
for number in range({_CONNECTIONS + _BEYOND}):
    try: crowd.append(socket.create_connection(("127.0.0.1", 3128), 5))
    except ConnectionResetError:
        if number < {_CONNECTIONS}: raise
        ended.add(-number)  # cut before it stood
for one in crowd[{_CONNECTIONS}:]: waiting.register(one, select.POLLIN)
while len(ended) < {_BEYOND}:
    heard = waiting.poll(5000)
    if not heard: break
    for descriptor, _ in heard: ended.add(descriptor); waiting.unregister(descriptor)
crowd[0].sendall(b"CONNECT 127.0.0.1:9 HTTP/1.1\\r\\nHost: 127.0.0.1:9\\r\\n\\r\\n")
print(json.dumps([len(ended), crowd[0].recv(64).split()[1].decode()]))
"""
    (ended, first), _ = await found_by(session, code)
    must(ended == _BEYOND, f"only {ended} of {_BEYOND} connections beyond {_CONNECTIONS} were cut")
    must(first == "403", f"the first of the connections was answered {first}")
    beside, _ = await found_by(neighbour, "print(json.dumps(ways('127.0.0.1', 9)))")
    all_refused({"it for a neighbour": beside})
    code = "while crowd: crowd.pop().close()\nprint(json.dumps(ways('127.0.0.1', 9)))"
    after, _ = await found_by(session, code)
    all_refused({"it after the crowd": after})


async def _never_finishes_asking(plane: PrivatePlane) -> None:
    code = r"""
import time
begun, slow = time.monotonic(), []
for port, words in ((3128, b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nX: "), (1080, b"\x05\xff")):
    slow.append(socket.create_connection(("127.0.0.1", port), 5))
    slow[-1].sendall(words)
def cut(one):
    try: return not one.recv(64)
    except OSError: return True
while slow and time.monotonic() - begun < 30:
    for one in select.select(slow, [], [], 0.5)[0]:
        if cut(one): slow.remove(one)
    for one in slow: outcome(lambda: one.send(b"\x02" if one.getpeername()[1] == 1080 else b"a"))
print(json.dumps(len(slow)))
"""
    left, _ = await found_by(await plane.begin(), code)
    must(left == 0, f"{left} of 2 clients of the proxies that never finish asking were left alone for 30 s")


async def _sends_with_what_is_refused(plane: PrivatePlane) -> None:
    session = await plane.begin()
    async with listening_canary() as canary:
        code = f"""
load, here = b"secret" * 50_000, "127.0.0.1:{canary.port}"
post = f"POST http://{{here}}/ HTTP/1.1\\r\\nHost: {{here}}\\r\\nContent-Length: {{len(load)}}\\r\\n\\r\\n".encode()
tunnel = f"CONNECT {{here}} HTTP/1.1\\r\\nHost: {{here}}\\r\\n\\r\\n".encode()
address = b"\\x05\\x01\\x00\\x01\\x7f\\x00\\x00\\x01" + ({canary.port}).to_bytes(2, "big")
print(json.dumps([http(post + load), http(tunnel + load), socks(address + load)]))
"""
        found, ledger = await found_by(session, code)
        must(set(found) <= {"403", REFUSED, "cut"}, f"what was refused was answered: {found}")
        nothing_passed(ledger, 3)
        await canary.heard_nobody("by what came with a request that was refused")


async def _uses_up_a_workers_traffic(plane: PrivatePlane) -> None:
    raise NotTried("max_total_traffic counts what passes to an allowed server, and the plane under attack allows none")


def attacks() -> list[LiveAttack]:
    """Return the attacks on names, the proxy, ports and limits of connections."""
    nowhere, forbidden = "no packet leaves, nobody answers", "403, noted in the ledger; nobody hears it"
    rows = (
        (33, "leaks through DNS, asking name servers itself", nowhere, _asks_name_servers),
        (33, "leaks through DNS, with data in names that the proxy shall look up", "403 unseen", _hides_data_in_names),
        (34, "abuses the proxy, spelling addresses that are not public", forbidden, _spells_addresses),
        (34, "abuses the proxy, naming this host", forbidden, _names_this_host),
        (34, "abuses the proxy, calling the control plane", forbidden, _calls_the_control_plane),
        (34, "abuses the proxy, allowing this host to itself", forbidden, _opens_its_own_rules),
        (34, "abuses the proxy, confusing it", "400 or 403; nobody hears it", _confuses_the_proxy),
        (34, "goes around the proxy", nowhere, _goes_around_the_proxy),
        (35, "listens, for the host", "its port is its own", _listens_for_the_host),
        (35, "listens, for a neighbour", "the neighbour reaches nobody", _listens_for_a_neighbour),
        (35, "has the proxy listen for it", "no such command", _has_the_proxy_listen),
        (36, "exceeds its connections", "those beyond are cut, the others go on", _holds_connections),
        (36, "never finishes asking the proxy", "cut after some seconds", _never_finishes_asking),
        (36, "sends data with what is refused", "not one byte passes", _sends_with_what_is_refused),
        (36, "exceeds its traffic, as a Worker", "stopped, told so", _uses_up_a_workers_traffic),
    )
    return listed(rows)
