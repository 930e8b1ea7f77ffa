from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from listening import Server

from clawplane.api.heads import HEAD_BYTES, BoundedHead, protocol

Talk = Callable[[bytes], Awaitable[bytes]]
LARGE = 64 << 20
"""More than two kernels keep of an answer that nobody reads."""


async def count_body(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"%d" % size})


class LargeAnswers:
    """An application with a long stream for whoever asks; `over` is set when it has nobody to tell it to any more."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        for _ in range(LARGE >> 20):
            await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
        await send({"type": "http.response.body"})
        self.over.set()


@asynccontextmanager
async def listening(app: Any, http: type[BoundedHead]) -> AsyncIterator[tuple[str, int]]:
    server = Server(uvicorn.Config(app, port=0, http=http, log_config=None, access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve())
    await server.listens.wait()
    try:
        yield server.servers[0].sockets[0].getsockname()[:2]
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def serving(http: type[BoundedHead] = BoundedHead) -> AsyncIterator[Talk]:
    async with listening(count_body, http) as address:

        async def talk(request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(*address)
            try:
                async with asyncio.timeout(10):
                    writer.write(request)
                    return await reader.read()
            finally:
                writer.close()

        yield talk


@asynccontextmanager
async def asked(address: tuple[str, int]) -> AsyncIterator[socket.socket]:
    """Send a request on a connection that takes little ahead."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        yield client


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"a" * (1 << 20),
        b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20),
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * (1 << 18),
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"X: a\r\n" * (1 << 18),
    ],
    ids=["address", "value", "lines", "trailers"],
)
async def test_a_head_that_never_ends_is_hung_up_on(endless: bytes) -> None:
    async with serving() as talk:
        answer = await talk(endless)
        assert answer.startswith(b"HTTP/1.1 431"), answer[:100]


async def test_a_head_that_does_not_come_is_hung_up_on() -> None:
    class Impatient(BoundedHead):
        head_seconds = 0.05

    async with serving(Impatient) as talk:
        assert (await talk(b"")).startswith(b"HTTP/1.1 408")
        assert (await talk(b"GET / HTTP/1.1\r\nHost")).startswith(b"HTTP/1.1 408")
        answer = await talk(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")


async def test_ordinary_heads_and_large_bodies_in_small_chunks_pass() -> None:
    async with serving() as talk:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (HEAD_BYTES // 2) + b"\r\n"
        plain = await talk(head + b"Content-Length: 300000\r\n\r\n" + b"b" * 300_000)
        assert b"\r\n300000\r\n" in plain
        chunks = b"1\r\nb\r\n" * 50_000 + b"0\r\n\r\n"
        chunked = await talk(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert b"\r\n50000\r\n" in chunked


async def read_to_the_end(client: socket.socket) -> int:
    taken = 0
    while block := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
        taken += len(block)
    return taken


async def test_a_client_that_reads_nothing_of_its_answer_is_hung_up_on() -> None:
    app = LargeAnswers()
    async with listening(app, protocol(unread_seconds=0.1)) as address, asked(address) as client, asyncio.timeout(10):
        await app.over.wait()
        assert await read_to_the_end(client) < LARGE


async def test_a_client_that_reads_slowly_gets_its_whole_answer() -> None:
    app = LargeAnswers()
    async with listening(app, protocol(unread_seconds=0.1)) as address, asked(address) as client, asyncio.timeout(30):
        assert await read_to_the_end(client) > LARGE


async def answer_at_once(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"6"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"enough"})


async def answer_slowly(scope: Any, receive: Any, send: Any) -> None:
    """Answer a client that stays to the end of its request."""
    while (message := await receive())["type"] != "http.disconnect":
        if not message["more_body"]:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
            return


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[socket.socket]:
    with socket.socket() as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, address)
        yield client


@asynccontextmanager
async def posting(address: tuple[str, int]) -> AsyncIterator[socket.socket]:
    """Begin to send a gigabyte."""
    async with connected(address) as client:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(client, head)
        yield client


async def received(client: socket.socket) -> bytes:
    got = b""
    while block := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
        got += block
    return got


async def test_a_client_that_is_still_sending_gets_its_answer_and_is_heard_out() -> None:
    async with listening(answer_at_once, BoundedHead) as address, posting(address) as client, asyncio.timeout(20):
        await asyncio.get_running_loop().sock_sendall(client, b"x" * (16 << 20))
        assert (await received(client)).endswith(b"\r\n\r\nenough")


TRAILERS = b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + TRAILERS + b"X: ", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nX: ", b"431"),
        (b"this is no HTTP\r\n\r\n", b"400"),
    ],
    ids=["head", "trailers", "second head", "no http"],
)
async def test_a_client_that_is_hung_up_on_while_it_sends_gets_the_answer_and_is_heard_out(
    caplog: pytest.LogCaptureFixture, begun: bytes, status: bytes
) -> None:
    loop = asyncio.get_running_loop()
    async with listening(answer_slowly, BoundedHead) as address, connected(address) as client, asyncio.timeout(20):
        await loop.sock_sendall(client, begun)
        await loop.sock_sendall(client, b"x" * (16 << 20))
        *_, last = (await received(client)).split(
            b"HTTP/1.1 "
        )  # a "100 Continue" or a whole answer may stand before it
        assert last.startswith(status)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_client_that_is_slow_with_its_head_and_then_sends_all_of_it_gets_the_answer() -> None:
    class Impatient(BoundedHead):
        head_seconds = 0.05

    loop = asyncio.get_running_loop()
    async with listening(answer_at_once, Impatient) as address, connected(address) as client, asyncio.timeout(20):
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nX: ")
        first = await loop.sock_recv(client, 8)
        await loop.sock_sendall(client, b"x" * (16 << 20))
        assert (first + await received(client)).startswith(b"HTTP/1.1 408")


async def test_a_server_that_leaves_waits_for_no_client_that_it_has_hung_up_on() -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as clients, asyncio.timeout(5), listening(answer_slowly, BoundedHead) as address:
        client = await clients.enter_async_context(connected(address))
        await loop.sock_sendall(client, b"POST / HTTP/1.1\r\nHost: x\r\n" + TRAILERS + b"X: " + b"x" * (1 << 20))
        assert (await received(client)).startswith(b"HTTP/1.1 431")


async def test_whoever_is_at_work_hears_at_once_that_its_client_was_hung_up_on_and_its_answer_goes_nowhere() -> None:
    heard = asyncio.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        heard.set()
        await answer_at_once(scope, receive, send)

    loop = asyncio.get_running_loop()
    async with listening(late, BoundedHead) as address, connected(address) as client, asyncio.timeout(5):
        await loop.sock_sendall(client, b"POST / HTTP/1.1\r\nHost: x\r\n" + TRAILERS + b"X: " + b"x" * (1 << 20))
        await heard.wait()
        assert (await received(client)).count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(("bound", "value"), [("LINGER_BYTES", 1 << 20), ("LINGER_SECONDS", 0.0)])
async def test_a_client_that_never_stops_sending_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: float
) -> None:
    monkeypatch.setattr(f"clawplane.api.lingering.{bound}", value)
    async with listening(answer_at_once, BoundedHead) as address, posting(address) as client, asyncio.timeout(20):
        with pytest.raises(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(client, b"x" * (256 << 20))


async def test_a_server_that_leaves_waits_for_no_client_that_is_still_sending() -> None:
    async with AsyncExitStack() as clients, asyncio.timeout(5), listening(answer_at_once, BoundedHead) as address:
        client = await clients.enter_async_context(posting(address))
        assert (await received(client)).endswith(b"enough")  # it has ended its side, and this one stays open
