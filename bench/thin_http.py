"""Speak just enough HTTP/1.1 to measure a server: a client that costs a tenth of what the well-kept ones do.

Client and server share two cores here, so what a client spends is measured as the server's slowness: httpx takes
0.75 ms of CPU for a request, more than the whole edge of the server. Only for answers with a length or in chunks.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        found = _answer_in(self._received)
        if found is not None and self._answer is not None:
            status, body, end = found
            del self._received[:end]
            answer, self._answer = self._answer, None
            if not answer.done():
                answer.set_result((status, body))

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request and return status and body."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


def _answer_in(received: bytearray) -> tuple[int, bytes, int] | None:
    """Return status, body and length of the first whole answer; None while it is not whole."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = bytes(received[:head_end]).lower()
    status = int(head[9:12])
    start = head_end + 4
    at = head.find(b"content-length:")
    if at >= 0:
        size = int(head[at + 15 :].split(b"\r\n", 1)[0])
        return (status, bytes(received[start : start + size]), start + size) if len(received) >= start + size else None
    if b"transfer-encoding: chunked" not in head:
        return status, b"", start
    body = b""
    while True:
        line_end = received.find(b"\r\n", start)
        if line_end < 0:
            return None
        size = int(bytes(received[start:line_end]), 16)
        if len(received) < line_end + 4 + size:
            return None
        body += received[line_end + 2 : line_end + 2 + size]
        start = line_end + 4 + size
        if size == 0:
            return status, body, start


class ThinClient:
    """Requests to one server; as many connections as are used at once."""

    def __init__(self, port: int, headers: dict[str, str], *, host: str = "127.0.0.1") -> None:
        self._address = (host, port)
        self._head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": f"{host}:{port}", **headers}.items())
        self._idle: list[_Connection] = []

    async def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send JSON, if there is some, and return the status and the decoded answer."""
        content = b"" if body is None else json.dumps(body).encode()
        typed = "Content-Type: application/json\r\n" if content else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{typed}Content-Length: {len(content)}\r\n\r\n"
        connection = await self._connection()
        try:
            status, answer = await connection.exchange(head.encode() + content)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return status, json.loads(answer) if answer else None

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        _, made = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        return made

    def close(self) -> None:
        """Drop all connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
