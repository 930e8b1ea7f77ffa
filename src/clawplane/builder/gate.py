"""Let an isolated installer reach its package index, and nothing else.

Theory of operation
    The installer runs without a network. Its only way out is this proxy, which the launcher serves on a socket on the
    sandbox's own loopback. Two kinds of request are understood: `CONNECT host:port`, an opaque tunnel, and
    `GET|HEAD http://host/...`, forwarded.
    * A destination is allowed by its *name and port*, never by its address: an index on a private network is normal,
      and a public address proves nothing. The names are those of the operator's configuration, plus the hosts that
      the index's own pages link to; those are looked up once.
    * Credentials never enter the sandbox. An index that needs some is given to the installer as `http://host/...`
      without them; the gate answers for that name by speaking TLS to the real index itself and adding the
      `Authorization` header. Such requests can only read: there is no method but GET and HEAD, and no body, so
      hostile set-up code cannot publish with the operator's token.
    * Everything a guest sends is hostile: headers are bounded in size and time, written anew from checked parts, and
      the number of connections is bounded. A refusal is a 403 and one line in the build's log.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

HEADER_BYTES = 16 << 10
HEADER_SECONDS = 15.0
DIAL_SECONDS = 30.0
CONNECTIONS = 128
CHUNK = 256 << 10

_TARGET = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>[0-9]{1,5})")
_HEADER = re.compile(r"(?P<name>[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}):[ \t]*(?P<value>[\t\x20-\x7e]{0,8192}?)[ \t]*")
_PATH = re.compile(r"/[\x21-\x7e]{0,8192}")
_FORWARDED = frozenset({"accept", "accept-encoding", "range", "if-none-match", "if-modified-since", "user-agent"})


@dataclass(frozen=True, slots=True)
class Destination:
    """A host and port that may be reached; the host in lower case, without brackets or final dot."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Origin:
    """What stands behind a plain address: `authorization` is a header's value, no `trust` means plain HTTP.

    The credentials go along below `trees` only (paths that end with a slash): set-up code may ask for any path of the
    host, and what else the operator can read there is not its business.
    """

    destination: Destination
    trust: ssl.SSLContext | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)
    trees: tuple[str, ...] = ("/",)

    def authorizes(self, path: str) -> bool:
        """Tell whether the credentials belong to `path`; one that could be read as leading out of a tree has none."""
        plain = unquote(path.partition("?")[0])
        if "\\" in plain or "%" in plain or any(part in {".", ".."} for part in plain.split("/")):
            return False
        return self.authorization is not None and plain.startswith(self.trees)


Dial = Callable[[Destination], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Discover = Callable[[], Coroutine[None, None, frozenset[Destination]]]


async def dial_directly(destination: Destination) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect over whatever addresses the name has."""
    return await asyncio.open_connection(destination.host, destination.port, limit=CHUNK)


class Refused(Exception):
    """Carry the answer for a request that is not served."""

    def __init__(self, status: str, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


class Gate:
    """The proxy of one build step.

    tunnels: destinations for CONNECT; origins: the `http://` destinations, as the guest names them, and what stands
    behind them; discover: ways to learn further tunnels, each awaited at most once, in order, until one names what is
    asked for; on_refusal gets one line per refused request.
    """

    def __init__(
        self,
        tunnels: frozenset[Destination],
        origins: Mapping[Destination, Origin],
        *,
        discover: Sequence[Discover],
        on_refusal: Callable[[str], None],
        dial: Dial = dial_directly,
    ) -> None:
        self.reached = 0
        """Connections that came about: 0 means that the index could not be reached at all."""
        self._tunnels = tunnels
        self._origins = dict(origins)
        self._discover = tuple(discover)
        self._discovered: dict[int, asyncio.Future[frozenset[Destination]]] = {}
        self._on_refusal = on_refusal
        self._dial = dial

    @asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve the listening socket until the context ends, then cut every connection."""
        tasks: set[asyncio.Task[None]] = set()
        # Asked before anybody needs the answer: the first download would have to wait for it.
        if self._discover:
            self._ask(0)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(tasks) >= CONNECTIONS:
                writer.close()
                return
            task = asyncio.ensure_future(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, sock=listener, limit=CHUNK)
        try:
            yield
        finally:
            server.close()
            for task in tuple(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for discovery in self._discovered.values():
                discovery.cancel()
            await asyncio.gather(*self._discovered.values(), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_close, writer)
            try:
                async with asyncio.timeout(HEADER_SECONDS):
                    method, target, headers = await _read_head(reader)
                if method == "CONNECT":
                    await self._tunnel(target, reader, writer, stack)
                else:
                    await self._forward(method, target, headers, writer, stack)
            except Refused as refusal:
                self._on_refusal(f"network: {refusal.reason}")
                answer = f"HTTP/1.1 {refusal.status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                writer.write(answer.encode("ascii"))
                with suppress(OSError):
                    await writer.drain()
            except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                return

    async def _tunnel(
        self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stack: AsyncExitStack
    ) -> None:
        match = _TARGET.fullmatch(target)
        if match is None or int(match["port"]) > 65535:
            raise Refused("400 Bad Request", "a CONNECT request named no host and port.")
        destination = Destination(match["host"].strip("[]").rstrip(".").lower(), int(match["port"]))
        if destination not in self._tunnels and not await self._learned(destination):
            raise Refused("403 Forbidden", f"{destination} is no package index of this host; refused.")
        far_reader, far_writer = await self._reach(destination, stack)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(reader, far_writer))
            group.create_task(_pump(far_reader, writer))

    async def _forward(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        writer: asyncio.StreamWriter,
        stack: AsyncExitStack,
    ) -> None:
        try:
            parts = urlsplit(target)
            port = parts.port or 80
        except ValueError:
            raise Refused("400 Bad Request", "a request named no valid address.") from None
        named = Destination((parts.hostname or "").rstrip(".").lower(), port)
        origin = self._origins.get(named)
        if parts.scheme != "http" or origin is None:
            shown = str(named) if _TARGET.fullmatch(str(named)) else "an address"
            raise Refused("403 Forbidden", f"{shown} is no package index of this host; refused.")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        body = headers.get("transfer-encoding") or headers.get("content-length", "0") != "0"
        if method not in {"GET", "HEAD"} or body or not _PATH.fullmatch(path):
            raise Refused("405 Method Not Allowed", f"only reading from {named} is allowed; refused.")
        far_reader, far_writer = await self._reach(origin.destination, stack)
        if origin.trust is not None:
            await far_writer.start_tls(origin.trust, server_hostname=origin.destination.host)
        far_writer.write(_request_head(method, path, origin, headers))
        await far_writer.drain()
        await _pump(far_reader, writer)

    async def _learned(self, destination: Destination) -> bool:
        """Tell whether the index's pages link to a destination; pages that cannot be read name none."""
        for number in range(len(self._discover)):
            with suppress(OSError):
                if destination in await asyncio.shield(self._ask(number)):
                    return True
        return False

    def _ask(self, number: int) -> asyncio.Future[frozenset[Destination]]:
        if number not in self._discovered:
            self._discovered[number] = asyncio.ensure_future(self._discover[number]())
        return self._discovered[number]

    async def _reach(
        self, destination: Destination, stack: AsyncExitStack
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                reader, writer = await self._dial(destination)
        except (OSError, TimeoutError) as error:
            why = type(error).__name__ if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
            raise Refused("502 Bad Gateway", f"{destination} cannot be reached: {why}.") from None
        stack.push_async_callback(_close, writer)
        self.reached += 1
        return reader, writer


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    """Read one request head: (method, target, headers by lower-case name)."""
    head = await reader.readuntil(b"\r\n\r\n")
    if len(head) > HEADER_BYTES:
        raise Refused("431 Request Header Fields Too Large", "a request head was too large.")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.partition(" ")
    if not re.fullmatch(r"HTTP/1\.[01]", version) or not re.fullmatch(r"[A-Z]{1,16}", method):
        raise Refused("400 Bad Request", "a request was not HTTP/1.")
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise Refused("400 Bad Request", "a request had a malformed header.")
        headers[match["name"].lower()] = match["value"]
    return method, target, headers


def _request_head(method: str, path: str, origin: Origin, headers: Mapping[str, str]) -> bytes:
    default_port = 80 if origin.trust is None else 443
    host = f"[{origin.destination.host}]" if ":" in origin.destination.host else origin.destination.host
    if origin.destination.port != default_port:
        host += f":{origin.destination.port}"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name in _FORWARDED]
    if origin.authorizes(path):
        lines.append(f"Authorization: {origin.authorization}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until the source ends, then tell the sink so; a broken connection ends both directions quietly."""
    try:
        while chunk := await source.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except OSError:
        sink.close()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
