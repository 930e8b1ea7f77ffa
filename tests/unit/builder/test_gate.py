from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from clawplane.builder.access import IndexAccess
from clawplane.builder.gate import CONNECTIONS, HEADER_BYTES, Destination, Gate, Origin
from clawplane.builder.indexes import PackageIndexes


async def nothing() -> frozenset[Destination]:
    return frozenset()


@asynccontextmanager
async def peer(answer: Callable[[bytes], bytes], context: ssl.SSLContext | None = None) -> AsyncIterator[Destination]:
    """A host that answers the first bytes it is sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await reader.read(65536)))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield Destination("localhost", server.sockets[0].getsockname()[1])
    finally:
        server.close()


@asynccontextmanager
async def served(gate: Gate) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with gate.serving(listener):
        yield port


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def refusing(lines: list[str]) -> Gate:
    return Gate(frozenset(), {}, discover=[nothing], on_refusal=lines.append)


async def test_a_tunnel_to_an_allowed_name_carries_bytes_both_ways(lines: list[str]) -> None:
    async with peer(lambda question: question.upper()) as host:
        gate = Gate(frozenset({host}), {}, discover=[nothing], on_refusal=lines.append)
        async with served(gate) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"CONNECT LOCALHOST.:{host.port} HTTP/1.1\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.read(), 10) == b"HELLO"
            writer.close()
    assert (gate.reached, lines) == (1, [])


async def test_an_address_is_no_substitute_for_an_allowed_name(lines: list[str]) -> None:
    async with peer(lambda question: question) as host:
        gate = Gate(frozenset({host}), {}, discover=[nothing], on_refusal=lines.append)
        async with served(gate) as port:
            answer = await ask(port, f"CONNECT 127.0.0.1:{host.port} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert lines == [f"network: 127.0.0.1:{host.port} is no package index of this host; refused."]
    assert gate.reached == 0


async def test_another_port_of_an_allowed_name_is_refused(lines: list[str]) -> None:
    gate = Gate(frozenset({Destination("localhost", 443)}), {}, discover=[nothing], on_refusal=lines.append)
    async with served(gate) as port:
        assert (await ask(port, b"CONNECT localhost:22 HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 403 ")


async def test_a_name_found_on_the_indexs_pages_is_allowed(lines: list[str]) -> None:
    async with peer(lambda question: question) as host:
        asked = 0

        async def discover() -> frozenset[Destination]:
            nonlocal asked
            asked += 1
            return frozenset({host})

        async with served(Gate(frozenset(), {}, discover=[nothing, discover], on_refusal=lines.append)) as port:
            for _ in range(2):
                answer = await ask(port, f"CONNECT localhost:{host.port} HTTP/1.1\r\n\r\nx".encode())
                assert answer.startswith(b"HTTP/1.1 200 ")
    assert asked == 1


async def test_the_page_of_an_index_names_the_hosts_of_its_files() -> None:
    page = (
        b'<a href="https://files.example/a.whl">a</a> <a href="../b.whl">b</a> {"url": "https://more.example:8443/c"}'
    )
    async with peer(lambda _: b"HTTP/1.1 200 OK\r\n\r\n" + page) as host:
        access = IndexAccess(PackageIndexes(default=f"http://localhost:{host.port}/simple"), {})
        gate = await access.python_gate(["six"], print)
        found = [await discover() for discover in gate._discover]
    assert found[0] == found[1] == {Destination("files.example", 443), Destination("more.example", 8443)}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    made = tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", made, "-out", tmp_path / "c"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    made.write_text(made.read_text() + (tmp_path / "c").read_text())
    return made


async def test_credentials_are_added_outside_over_tls(certificate: Path, lines: list[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    seen: list[bytes] = []

    def answer(question: bytes) -> bytes:
        seen.append(question)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async with peer(answer, context) as host:
        trust = ssl.create_default_context(cafile=str(certificate))
        origins = {host: Origin(host, trust, "Basic c2VjcmV0")}
        gate = Gate(frozenset(), origins, discover=[nothing], on_refusal=lines.append)
        async with served(gate) as port:
            request = f"GET http://localhost:{host.port}/simple/six/?a=b HTTP/1.1\r\nAccept: x\r\nCookie: y\r\n\r\n"
            assert (await ask(port, request.encode())).endswith(b"\r\n\r\nok")
    (question,) = seen
    assert question.startswith(f"GET /simple/six/?a=b HTTP/1.1\r\nHost: localhost:{host.port}\r\n".encode())
    assert b"\r\nAuthorization: Basic c2VjcmV0\r\n" in question
    assert b"\r\naccept: x\r\n" in question
    assert b"cookie" not in question.lower()
    assert "c2VjcmV0" not in repr(origins)


@pytest.mark.parametrize(
    "head",
    [
        "POST {url} HTTP/1.1\r\n\r\n",
        "PUT {url} HTTP/1.1\r\nContent-Length: 4\r\n\r\nevil",
        "GET {url} HTTP/1.1\r\nContent-Length: 4\r\n\r\nevil",
        "GET {url} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_an_index_that_gets_credentials_can_only_be_read(head: str, lines: list[str]) -> None:
    host = Destination("localhost", 9)
    gate = Gate(frozenset(), {host: Origin(host)}, discover=[nothing], on_refusal=lines.append)
    async with served(gate) as port:
        answer = await ask(port, head.format(url="http://localhost:9/simple").encode())
    assert answer.startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"CONNECT HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT a b:443 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT evil\x00.example:443 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT localhost:99999 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", b"403"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"403"),
        (b"GET file:///etc/passwd HTTP/1.1\r\n\r\n", b"403"),
        (b"GET http://localhost:bad/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET http://[/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET http://x/ HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
        (b"GET http://x/ HTTP/1.1\r\nA: " + b"b" * HEADER_BYTES + b"\r\n\r\n", b"431"),
    ],
)
async def test_requests_that_make_no_sense_are_refused(request_head: bytes, status: bytes, lines: list[str]) -> None:
    async with served(refusing(lines)) as port:
        assert (await ask(port, request_head)).startswith(b"HTTP/1.1 " + status)
    assert len(lines) == 1
    assert lines[0].isprintable()


async def test_a_head_that_never_ends_is_cut_off(lines: list[str]) -> None:
    async with served(refusing(lines)) as port:
        with suppress(ConnectionResetError):
            assert await ask(port, b"A" * 600_000) == b""


async def test_too_many_connections_are_closed_at_once(lines: list[str]) -> None:
    async with served(refusing(lines)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
        assert await ask(port, b"GET http://x/ HTTP/1.1\r\n\r\n") == b""
        for _, writer in held:
            writer.close()


async def test_a_host_that_is_away_is_named(lines: list[str]) -> None:
    gate = Gate(frozenset({Destination("localhost", 9)}), {}, discover=[nothing], on_refusal=lines.append)
    async with served(gate) as port:
        assert (await ask(port, b"CONNECT localhost:9 HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 502 ")
    assert "localhost:9 cannot be reached" in lines[0]


async def test_the_operators_own_proxy_is_used_with_its_password() -> None:
    seen: list[bytes] = []

    def answer(question: bytes) -> bytes:
        seen.append(question)
        return b"HTTP/1.1 200 OK\r\n\r\n"

    async with peer(answer) as proxy:
        environ = {"HTTPS_PROXY": f"http://ann:hunter2@localhost:{proxy.port}", "NO_PROXY": "direct.example"}
        _, writer = await IndexAccess(PackageIndexes(default=None), environ).dial(Destination("index.example", 443))
        writer.close()
    assert seen[0].startswith(b"CONNECT index.example:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic YW5uOmh1bnRlcjI=\r\n" in seen[0]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/team/simple/six/", True),
        ("/team/files/six.whl?x=1", True),
        ("/other/simple/six/", False),
        ("/team/../other/simple/six/", False),
        ("/team/%2e%2e/other/", False),
        ("/team/%252e%252e/other/", False),
        ("/team\\..\\other", False),
        ("/teammate/simple/", False),
    ],
)
def test_the_operators_credentials_go_no_further_than_the_index_they_are_for(path: str, sent: bool) -> None:
    origin = Origin(Destination("packages.test", 443), None, "Basic c2VjcmV0", ("/team/",))
    assert origin.authorizes(path) is sent
