"""Send connections on through proxies that the operator has configured, by region.

The upstream proxy resolves names: which addresses they have is decided where it stands. Names are judged here before,
names of local networks are refused, and hosts that the operator trusts are reached directly, since only this host may
know them. Of several proxies of a region one after the other is used; one that cannot be reached is passed over.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

from clawplane.egress.hosts import Destination
from clawplane.egress.rules import Rules
from clawplane.egress.ways import DIAL_SECONDS, Denied, Direct, Reached, judged

ANY_REGION: Final = "*"
_REGION: Final = re.compile(r"[A-Za-z]{2}|\*")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (?P<code>[1-5][0-9][0-9])[ \r]")
_HEAD_BYTES: Final = 16 << 10
_CREDENTIALS_REFUSED: Final = 407


class UpstreamFailed(OSError):
    """An upstream proxy could not be used."""


@dataclass(frozen=True, slots=True)
class UpstreamProxy:
    """A proxy to send connections through."""

    scheme: str
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def read_proxy(url: str) -> UpstreamProxy:
    """Read `socks5://user:password@host:port` or `http://...`; raises ValueError that shows no credentials."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("an upstream proxy's address is malformed") from None
    scheme = "socks5" if parts.scheme == "socks5h" else parts.scheme
    if scheme not in {"socks5", "http"}:
        raise ValueError("an upstream proxy's address begins with socks5:// or http://")
    if not host or not port or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(f"an upstream proxy's address is {scheme}://[user:password@]host:port")
    return UpstreamProxy(scheme, host, port, unquote(parts.username or ""), unquote(parts.password or ""))


class Upstreams:
    """The upstream proxies by region: two letters, or `*` for all regions without a proxy of their own."""

    def __init__(self, by_region: Mapping[str, Iterable[UpstreamProxy]] | None = None) -> None:
        self._by_region = {region.upper(): tuple(proxies) for region, proxies in (by_region or {}).items()}

    @classmethod
    def read(cls, entries: Iterable[str]) -> Upstreams:
        """Read entries `REGION=URL`; several of one region are used in turn. Raises ValueError without credentials."""
        found: dict[str, list[UpstreamProxy]] = {}
        for entry in entries:
            region, separator, url = entry.partition("=")
            if not separator or not _REGION.fullmatch(region):
                raise ValueError("an upstream proxy is written as REGION=URL, the region being two letters or *")
            found.setdefault(region.upper(), []).append(read_proxy(url))
        return cls(found)

    def way(self, region: str, direct: Direct) -> Direct | Upstream:
        """Return the way for a region: its proxies, else those of `*`, else this host's own network."""
        proxies = self._by_region.get(region.upper()) or self._by_region.get(ANY_REGION)
        return Upstream(proxies, direct) if proxies else direct

    def serves(self, region: str) -> bool:
        """Tell whether connections of this region leave as asked; without proxies there is one region only."""
        return not region or not self._by_region or bool({region.upper(), ANY_REGION} & self._by_region.keys())


class Upstream:
    """The way through the proxies of one region."""

    def __init__(self, proxies: tuple[UpstreamProxy, ...], direct: Direct) -> None:
        self._proxies = proxies
        self._direct = direct
        self._next = 0

    async def connect(self, destination: Destination, rules: Rules) -> Reached:
        """Connect through the next proxy that can be reached."""
        if judged(destination, rules).anywhere:
            return await self._direct.connect(destination, rules)
        decision = rules.judge_unresolved(destination)
        if not decision.allowed:
            raise Denied(decision.reason)
        self._next += 1
        for number in range(len(self._proxies)):
            proxy = self._proxies[(self._next + number) % len(self._proxies)]
            try:
                async with asyncio.timeout(DIAL_SECONDS):
                    return await (_over_socks if proxy.scheme == "socks5" else _over_http)(proxy, destination)
            except (UpstreamFailed, TimeoutError):
                continue
        raise UpstreamFailed("no upstream proxy of the region could be used")


async def _over_socks(proxy: UpstreamProxy, destination: Destination) -> Reached:
    way = Proxy(
        proxy_type=ProxyType.SOCKS5,
        host=proxy.host,
        port=proxy.port,
        username=proxy.user or None,
        password=proxy.password or None,
        rdns=True,
    )
    try:
        connection = await way.connect(destination.name, destination.port, timeout=DIAL_SECONDS)
    except (ProxyConnectionError, ProxyTimeoutError):
        raise UpstreamFailed("the upstream proxy cannot be reached") from None
    except ProxyError as error:
        if error.error_code is None:
            raise UpstreamFailed("the upstream proxy refused") from None
        raise OSError("the upstream proxy could not reach it") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Reached(connection)


async def _over_http(proxy: UpstreamProxy, destination: Destination) -> Reached:
    """Open a tunnel by CONNECT; what follows the answer's head already belongs to the far end."""
    loop = asyncio.get_running_loop()
    lines = [f"CONNECT {destination} HTTP/1.1", f"Host: {destination}"]
    if proxy.user:
        login = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode("ascii")
        lines.append(f"Proxy-Authorization: Basic {login}")
    connection: socket.socket | None = None
    try:
        connection = await _connected(proxy)
        await loop.sock_sendall(connection, ("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        head, early = await _read_head(connection)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, OSError):
            raise UpstreamFailed("the upstream proxy cannot be reached") from None
        raise
    status = _STATUS.match(head)
    code = int(status["code"]) if status else 0
    if 200 <= code < 300:
        return Reached(connection, early)
    connection.close()
    if code in {0, _CREDENTIALS_REFUSED}:
        raise UpstreamFailed("the upstream proxy refused")
    raise OSError("the upstream proxy could not reach it")


async def _connected(proxy: UpstreamProxy) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(connection, address)
        except BaseException as error:
            connection.close()
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return connection
    raise failure or UpstreamFailed("the upstream proxy has no address")


async def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    loop = asyncio.get_running_loop()
    received = b""
    while b"\r\n\r\n" not in received:
        block = await loop.sock_recv(connection, _HEAD_BYTES)
        received += block
        if not block or len(received) > _HEAD_BYTES:
            raise UpstreamFailed("the upstream proxy does not speak HTTP/1")
    head, _, early = received.partition(b"\r\n\r\n")
    return head + b"\r\n", early
