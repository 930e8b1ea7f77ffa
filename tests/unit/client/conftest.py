"""A server that answers as a test tells it to: real sockets, no good manners."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from clawplane.client.http import Http

Play = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Answers:
    """How answers are written; tests get it as a fixture, since test directories are no packages."""

    @staticmethod
    def reply(body: bytes, *, status: int = 200, media: str = "application/json", extra: str = "") -> bytes:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        return head.encode() + body

    @classmethod
    def envelope(cls, data: Any) -> bytes:
        return cls.reply(json.dumps({"code": 0, "message": "success", "request_id": "r", "data": data}).encode())

    @staticmethod
    def lines(*entries: Any, ends: bool = True) -> bytes:
        """Return a chunked NDJSON stream; one that does not end is cut off by the closing of the connection."""
        text = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%s\r\n" % (len(text), text) if text else b""
        return head + chunk + (b"0\r\n\r\n" if ends else b"")


@pytest.fixture
def answers() -> type[Answers]:
    return Answers


@dataclass
class Peer:
    """Answers with what `answers` holds, in order, the last one again and again; None closes the connection."""

    answers: list[bytes | Play | None] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._one(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((method, path))
        self.headers.append(headers)
        self.bodies.append(body)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            await answer(writer)
        elif answer is not None:
            writer.write(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            await writer.drain()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield peer
    server.close()
    await server.wait_closed()


@pytest.fixture
async def http(peer: Peer) -> AsyncIterator[Http]:
    http = Http(peer.url, "k" * 20)
    yield http
    await http.close()
