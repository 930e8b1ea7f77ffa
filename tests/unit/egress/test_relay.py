"""The relay with real sockets and, where they are installed, real clients."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from ipaddress import ip_address

import pytest

from clawplane.egress.hosts import read_destination
from clawplane.egress.ledger import Entry
from clawplane.egress.protocol import Credentials
from clawplane.egress.relay import UNREADABLE, RelayLimits
from clawplane.egress.rules import OperatorRules
from clawplane.egress.ways import Denied, Direct

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


async def shout(reader, writer) -> None:
    """Answer everything in upper case, and end when the client has ended."""
    while block := await reader.read(65536):
        writer.write(block.upper())
        await writer.drain()
    writer.write(b"BYE")
    writer.close()


async def page(reader, writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HELLO)
    await writer.drain()
    writer.close()


async def curl(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-m", "10", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={}
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_bytes_pass_both_ways_and_each_side_may_end_first(outside, far) -> None:
    out, port = await outside(), await far(shout)
    code, reader, writer = await out.socks("far.example", port)
    assert code == 0
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"HELLO"
    writer.write_eof()
    assert await reader.read() == b"BYE"
    writer.close()
    assert out.relay.ledger.since() == (Entry("far.example", port, "allowed", 1, 5, 8),)


async def test_what_is_sent_before_the_reply_reaches_the_far_end(outside, far) -> None:
    out, port = await outside(), await far(shout)
    reader, writer = await out.open(out.socks_port)
    name = b"far.example"
    request = b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big")
    writer.write(request + b"early")
    answer = await reader.readexactly(2 + 10 + 5)
    assert answer == b"\x05\x00\x05\x00\x00\x01" + bytes(6) + b"EARLY"
    writer.close()


async def test_a_server_that_speaks_first_is_heard_after_the_reply(outside, far) -> None:
    async def greet(reader, writer) -> None:
        writer.write(b"220 ready")
        writer.close()

    out, port = await outside(), await far(greet)
    for _ in range(20):
        code, reader, writer = await out.socks("far.example", port)
        assert (code, await reader.read()) == (0, b"220 ready")
        writer.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "172.17.0.1",
     "169.254.169.254", "[::1]", "localhost", "LOCALHOST.",
     "\uff11\uff12\uff17.0.0.1", "10.0.0.1", "192.168.0.1", "fd00:ec2::254"],
)  # fmt: skip
async def test_no_spelling_of_a_private_place_is_connected_to(outside, far, host) -> None:
    reached = asyncio.Event()

    async def serve(reader, writer) -> None:
        reached.set()
        writer.close()

    out, port = await outside(), await far(serve)
    code, _, writer = await out.socks(host, port)
    writer.close()
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    answer = await out.http(f"CONNECT {shown}:{port} HTTP/1.0\r\n\r\n".encode())
    forwarded = await out.http(f"GET http://{shown}:{port}/ HTTP/1.0\r\n\r\n".encode())
    assert code == 2
    assert answer.split()[1] in {b"400", b"403"}
    assert forwarded.split()[1] in {b"400", b"403"}
    assert not reached.is_set()
    assert {entry.verdict for entry in out.relay.ledger.since()} == {"denied"}


async def test_the_hosts_own_address_on_its_network_is_refused_even_if_it_is_public(outside, far, monkeypatch) -> None:
    monkeypatch.setattr("clawplane.egress.rules.why_not_public", lambda address: None)
    out, port = await outside(), await far(shout)
    code, _, writer = await out.socks("127.0.0.1", port)
    writer.close()
    assert code == 2
    assert out.refusals == [f"127.0.0.1:{port} is not allowed: its address belongs to this host or the platform."]


async def test_a_name_that_changes_its_answer_gains_nothing(outside, far, names) -> None:
    port = await far(shout)
    out = await outside(trusted=())
    names.answers["rebind.example"] = [(ip_address("127.0.0.1"),), (ip_address("192.0.2.1"),)]
    code, _, writer = await out.socks("rebind.example", port)
    writer.close()
    assert code == 2
    assert names.asked == ["rebind.example"]


async def test_of_a_mixed_answer_only_the_public_addresses_are_tried(resolver, names) -> None:
    public, private = ip_address("1.1.1.1"), ip_address("127.0.0.1")
    names.answers["mixed.example"] = [(private, public)]
    rules = OperatorRules.read().rules()
    assert await Direct(resolver).vetted(read_destination("mixed.example", 80), rules) == [public]


async def test_an_alias_of_the_control_plane_is_refused_under_its_port(resolver, names) -> None:
    address = ip_address("1.1.1.1")
    names.answers |= {"plane.example": [(address,)], "alias.example": [(address,)]}
    rules = OperatorRules.read(forbidden=["plane.example:443"]).rules()
    way = Direct(resolver)
    assert await way.vetted(read_destination("alias.example", 80), rules) == [address]
    for host in ("alias.example", "1.1.1.1"):
        with pytest.raises(Denied, match="platform"):
            await way.vetted(read_destination(host, 443), rules)


async def test_a_name_that_the_rules_refuse_is_never_looked_up(outside, names) -> None:
    out = await outside(rules=OperatorRules.read().rules("listed", allow=["far.example"]))
    code, _, writer = await out.socks("a" * 63 + ".tunnel.example", 53)
    writer.close()
    assert (code, names.asked) == (2, [])


async def test_why_a_connection_does_not_come_about_is_told_in_the_protocol_and_the_ledger(outside) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    out = await outside()
    for host, code, reason in (
        ("far.example", 5, "the connection was refused"),
        ("unknown.example", 4, "the name has no address"),
    ):
        got, _, writer = await out.socks(host, port)
        writer.close()
        assert got == code
        assert f"{host}:{port} cannot be reached: {reason}." in out.refusals
        assert reason.encode() in await out.http(f"CONNECT {host}:{port} HTTP/1.0\r\n\r\n".encode())
    assert [(entry.verdict, entry.connections) for entry in out.relay.ledger.since()] == [("failed", 2)] * 2


async def test_a_name_that_cannot_be_read_is_not_repeated_in_the_ledger(outside) -> None:
    out = await outside()
    code, _, writer = await out.socks("evil@far.example", 80)
    writer.close()
    assert code == 2
    assert [entry.host for entry in out.relay.ledger.since()] == [UNREADABLE]


async def test_a_forwarded_request_arrives_in_origin_form_without_what_was_meant_for_the_proxy(outside, far) -> None:
    heads: list[bytes] = []

    async def serve(reader, writer) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3))
        writer.write(HELLO)
        writer.close()

    out, port = await outside(), await far(serve)
    request = (
        f"POST http://far.example:{port}/a?b=c HTTP/1.1\r\nHost: far.example:{port}\r\nContent-Length: 3\r\n"
        "Proxy-Authorization: Basic abc\r\nConnection: x-hop, content-length\r\nX-Hop: 1\r\nX-Kept: 2\r\n\r\nabc"
    )
    assert await out.http(request.encode()) == HELLO
    assert heads[0].split(b"\r\n")[0] == b"POST /a?b=c HTTP/1.1"
    fields = sorted(line.lower() for line in heads[0].split(b"\r\n")[1:-2])
    host = f"host: far.example:{port}".encode()
    assert fields == [b"connection: close", b"content-length: 3", host, b"x-kept: 2"]
    assert heads[0].endswith(b"abc")


async def test_a_second_request_behind_the_first_reaches_nobody(outside, far) -> None:
    got: list[bytes] = []
    done = asyncio.Event()

    async def serve(reader, writer) -> None:
        try:
            got.append(await reader.read())
        finally:
            done.set()

    out, port = await outside(), await far(serve)
    first = f"POST http://far.example:{port}/ HTTP/1.1\r\nHost: far.example:{port}\r\nContent-Length: 0\r\n\r\n"
    _, writer = await out.open(out.http_port)
    writer.write(first.encode() + b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
    async with asyncio.timeout(30):
        await done.wait()
    writer.close()
    assert b"169.254" not in b"".join(got)


async def test_a_login_is_needed_where_one_is_set(outside, far) -> None:
    out, port = await outside(credentials=Credentials("user", "secret")), await far(page)
    ask = f"GET http://far.example:{port}/ HTTP/1.0\r\n"
    for login, status in (("", b"407"), ("Basic dXNlcjpzZWNyZXQ=", b"200"), ("Basic dXNlcjpzZWNyZVQ=", b"407")):
        head = f"{ask}Proxy-Authorization: {login}\r\n\r\n" if login else f"{ask}\r\n"
        assert (await out.http(head.encode())).split()[1] == status
    for login, answer in ((b"\x01\x04user\x06secret", b"\x01\x00"), (b"\x01\x04user\x06secreT", b"\x01\x01")):
        reader, writer = await out.open(out.socks_port)
        writer.write(b"\x05\x01\x02" + login)
        assert await reader.readexactly(4) == b"\x05\x02" + answer
        writer.close()


async def test_a_client_that_never_asks_is_cut_after_the_handshake_time(outside) -> None:
    out = await outside(limits=RelayLimits(handshake=0.2))
    for port, start in ((out.socks_port, b"\x05"), (out.http_port, b"GET http://far.example/ HTTP/1.1\r\nX-A: ")):
        reader, writer = await out.open(port)
        writer.write(start)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(30):
                await reader.read()
        writer.close()
    assert out.relay.connections == 0


async def test_a_connection_through_which_nothing_moves_is_cut(outside, far) -> None:
    out, port = await outside(limits=RelayLimits(idle=0.2)), await far(shout)
    _, reader, writer = await out.socks("far.example", port)
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(30):
            await reader.read()
    writer.close()


async def test_connections_beyond_the_limit_are_cut_and_the_others_go_on(outside, far) -> None:
    out, port = await outside(limits=RelayLimits(connections=2)), await far(shout)
    kept = [await out.socks("far.example", port) for _ in range(2)]
    reader, writer = await out.open(out.socks_port)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    for _, reader, writer in kept:
        writer.write(b"a")
        assert await reader.readexactly(1) == b"A"
        writer.close()


async def test_a_client_that_does_not_read_holds_its_server_back(outside, far) -> None:
    held, sent = asyncio.Event(), 0

    async def pour(reader, writer) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(high=0)
        while sent < 1 << 26:
            writer.write(bytes(1 << 16))
            sent += 1 << 16
            try:
                async with asyncio.timeout(1):
                    await writer.drain()
            except TimeoutError:
                held.set()
                return

    out, port = await outside(), await far(pour)
    connection = socket.create_connection(("127.0.0.1", out.socks_port))
    name = b"far.example"
    connection.sendall(b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
    async with asyncio.timeout(20):
        await held.wait()
    assert sent < 1 << 25
    connection.close()


async def test_a_broken_far_end_breaks_the_client_so_that_a_part_never_looks_whole(outside, far) -> None:
    async def half(reader, writer) -> None:
        writer.write(b"half")
        await writer.drain()
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    out, port = await outside(), await far(half)
    _, reader, writer = await out.socks("far.example", port)
    assert await reader.readexactly(4) == b"half"
    writer.write(b"x")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_the_budget_cuts_everything_before_more_than_it_has_passed(outside, far) -> None:
    async def pour(reader, writer) -> None:
        while True:
            writer.write(bytes(1 << 14))
            await writer.drain()

    out, port = await outside(limits=RelayLimits(traffic=100_000)), await far(pour)
    _, reader, writer = await out.socks("far.example", port)
    got = 0
    with contextlib.suppress(ConnectionResetError):
        while block := await reader.read(65536):
            got += len(block)
        raise AssertionError("it ended in peace")
    writer.close()
    assert out.exhausted.is_set()
    assert got <= out.relay.ledger.total <= 100_000
    reader, writer = await out.open(out.socks_port)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_closing_ends_listeners_and_connections_and_may_be_repeated(outside, far) -> None:
    out, port = await outside(), await far(shout)
    _, reader, writer = await out.socks("far.example", port)
    await out.relay.close()
    await out.relay.close()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(OSError):
        await out.open(out.socks_port)


async def test_rules_may_be_replaced_while_it_serves(outside, far) -> None:
    out, port = await outside(), await far(shout)
    out.relay.rules = OperatorRules.read().rules("none")
    code, _, writer = await out.socks("far.example", port)
    writer.close()
    assert code == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_gets_its_page_by_every_kind_of_proxy(outside, far) -> None:
    out, port = await outside(), await far(page)
    url = f"http://far.example:{port}/x"
    socks, http = f"127.0.0.1:{out.socks_port}", f"http://127.0.0.1:{out.http_port}"
    assert await curl("-x", f"socks5h://{socks}", url) == (0, "hello")
    assert await curl("-x", http, url) == (0, "hello")
    assert await curl("-p", "-x", http, url) == (0, "hello")
    assert await curl("-x", http, "-d", "a" * 2000, "-H", "Transfer-Encoding: chunked", url) == (0, "hello")
    code, text = await curl("-x", http, f"http://127.0.0.1:{port}/")
    assert (code, text) == (0, f"clawplane: 127.0.0.1:{port} is not allowed: it is a loopback address.\n")


async def test_httpx_gets_its_page_through_the_variables_that_a_session_has(outside, far, monkeypatch) -> None:
    httpx = pytest.importorskip("httpx")
    out, port = await outside(), await far(page)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{out.http_port}")
    for name in ("ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            assert (await client.get(f"http://far.example:{port}/")).text == "hello"
