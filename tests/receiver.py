"""An HTTP server that a test plays: it hears real requests on a real socket and answers what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Heard:
    """One request, as it came; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Say:
    """One answer; `raw` is sent as it is instead, and `hang_up` ends the connection without any."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    hang_up: bool = False


Player = Callable[[Heard], Say | Awaitable[Say]]


class Receiver:
    """A server that keeps what it heard."""

    def __init__(self, player: Player, port: int = 0) -> None:
        self.player = player
        self.port = port
        self.heard: list[Heard] = []
        self.changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Be down: refuse connections and cut those that are open."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def until(self, count: int, where: Callable[[Heard], bool] = lambda heard: True) -> list[Heard]:
        """Wait until that many requests have been heard and return all of them."""
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: len([each for each in self.heard if where(each)]) >= count)
        return [each for each in self.heard if where(each)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            heard = await _read(reader)
            if heard is not None:
                answer = self.player(heard)
                said = answer if isinstance(answer, Say) else await answer
                async with self.changed:
                    self.heard.append(heard)
                    self.changed.notify_all()
                if not said.hang_up:
                    writer.write(said.raw if said.raw is not None else _head(said) + said.body)
                    await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Heard | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(method, target, headers, body)


def _head(said: Say) -> bytes:
    headers = {"Content-Length": str(len(said.body)), "Connection": "close", **said.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {said.status} Said\r\n{lines}\r\n".encode()


@asynccontextmanager
async def receiver(player: Player) -> AsyncIterator[Receiver]:
    """Play a server."""
    played = Receiver(player)
    await played.open()
    try:
        yield played
    finally:
        await played.close()


def in_turn(*answers: Say) -> Player:
    """Answer with these one after the other, the last one for ever."""
    left = list(answers)
    return lambda heard: left.pop(0) if len(left) > 1 else left[0]
