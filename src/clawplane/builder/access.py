"""Open gates to the operator's indexes and registries, and find out where their pages lead.

An index commonly serves its pages from one host and its files from another. Which one is learned by reading, outside
the sandbox, the index's page of a package: first of one that every Python environment has, which is remembered; then,
when a name is still unknown, of the packages that this build asks for, which is forgotten with the build, because
whoever wrote the Worker also chose those names.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # missing in typeshed

from clawplane.builder.gate import CHUNK, Destination, Gate, Origin, dial_directly
from clawplane.builder.indexes import PackageIndexes, destination_of

PAGE_BYTES = 64 << 10
PAGE_SECONDS = 10.0
LOOKED_UP = 8
_KNOWN_PACKAGE = "protobuf"
_LINK = re.compile(rb"""(?:\bhref=["']|"(?:url|tarball)":\s*")(https?://[^"'\s<>\\]{1,2000})""")


class IndexAccess:
    """The ways from this host to its package indexes.

    further: destinations the operator allows besides, such as a content network that an index redirects to.
    """

    def __init__(
        self, indexes: PackageIndexes, environ: Mapping[str, str], *, further: Iterable[Destination] = ()
    ) -> None:
        self._indexes = indexes
        self._environ = {name.lower(): value for name, value in environ.items() if name.lower().endswith("_proxy")}
        self._further = frozenset(further)
        self._known: dict[str, frozenset[Destination]] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    def for_installer(self, address: str) -> str:
        """Name an index for the installer: one that needs credentials in plain HTTP, which the gate completes."""
        destination = destination_of(address)
        if destination is None or destination not in self._indexes.authorizations:
            return address
        named = _in_plain(address)
        return urlsplit(address)._replace(scheme="http", netloc=_netloc(named)).geturl()

    def configured(self) -> frozenset[Destination]:
        """Return the hosts of the Python indexes and links that the operator has configured."""
        remote = (_try_destination(link) for link in (*self._indexes.addresses, *self._indexes.links))
        return self._further | frozenset(found for found in remote if found is not None)

    async def linked(self) -> frozenset[Destination]:
        """Return the hosts that the configured indexes serve their files from, as far as they can be asked now."""
        return frozenset().union(*await asyncio.gather(*map(self._known_links, self._indexes.addresses)))

    async def python_gate(self, packages: Sequence[str], on_refusal: Callable[[str], None]) -> Gate:
        """Make the gate for one step that installs the named Python packages."""
        remote = [link for link in (*self._indexes.addresses, *self._indexes.links) if destination_of(link)]
        origins: dict[Destination, Origin] = {}
        tunnels = set(self._further)
        for address in remote:
            destination = _destination(address)
            authorization = self._indexes.authorizations.get(destination)
            if authorization is not None or urlsplit(address).scheme == "http":
                trust = await self._trust(destination.host) if urlsplit(address).scheme == "https" else None
                before = origins.get(_in_plain(address))
                trees = (*(before.trees if before else ()), _tree_of(address))
                origins[_in_plain(address)] = Origin(destination, trust, authorization, trees)
            if urlsplit(address).scheme == "https":
                tunnels.add(destination)

        async def asked_for() -> frozenset[Destination]:
            names = [name for name in packages if name != _KNOWN_PACKAGE][:LOOKED_UP]
            return await self._pages(
                [f"{address.rstrip('/')}/{name}/" for address in self._indexes.addresses for name in names]
            )

        discover = (self.linked, asked_for)
        return Gate(frozenset(tunnels), origins, discover=discover, on_refusal=on_refusal, dial=self.dial)

    async def node_gate(
        self, registries: Sequence[str], packages: Sequence[str], on_refusal: Callable[[str], None]
    ) -> Gate:
        """Make the gate for one step that installs the named Node packages from the given registries."""
        origins = {
            _destination(address): Origin(_destination(address))
            for address in registries
            if urlsplit(address).scheme == "http"
        }
        tunnels = {_destination(address) for address in registries if urlsplit(address).scheme == "https"}

        async def nothing() -> frozenset[Destination]:
            return frozenset()

        async def asked_for() -> frozenset[Destination]:
            names = packages[:LOOKED_UP]
            return await self._pages([f"{address.rstrip('/')}/{name}" for address in registries for name in names])

        # npm is told to fetch archives from the registry itself, so nothing has to be known in advance.
        discover = (nothing, asked_for)
        allowed = frozenset(tunnels | self._further)
        return Gate(allowed, origins, discover=discover, on_refusal=on_refusal, dial=self.dial)

    async def dial(self, destination: Destination) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a destination, through the operator's own proxy when the environment names one for it."""
        proxy = self._environ.get("https_proxy") or self._environ.get("all_proxy")
        bypass = proxy_bypass_environment(str(destination), {"no": self._environ.get("no_proxy", "")})
        if not proxy or bypass:
            return await dial_directly(destination)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise OSError(0, "the proxy named by HTTPS_PROXY is no HTTP proxy")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        trust = await self._trust(parts.hostname) if secure else None
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=trust, limit=CHUNK)
        lines = [f"CONNECT {_netloc(destination, always=True)} HTTP/1.1", f"Host: {_netloc(destination, always=True)}"]
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode('ascii')}")
        try:
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            answer = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            answer = b""
        if not re.match(rb"HTTP/1\.[01] 2\d\d", answer):
            writer.close()
            raise OSError(0, "the proxy named by HTTPS_PROXY refused")
        return reader, writer

    async def _known_links(self, address: str) -> frozenset[Destination]:
        """Look up the hosts an index links to for a package that no Worker chose."""
        if address not in self._known:
            found = await self._pages([f"{address.rstrip('/')}/{_KNOWN_PACKAGE}/"])
            if not found:
                return found
            self._known[address] = found
        return self._known[address]

    async def _pages(self, addresses: Sequence[str]) -> frozenset[Destination]:
        """Read pages side by side and name the hosts they link to; a page that cannot be read names none."""
        pages = await asyncio.gather(*(self._page(address) for address in addresses))
        links = {match.decode("latin-1") for page in pages for match in _LINK.findall(page)}
        return frozenset(found for link in links if (found := _try_destination(link)) is not None)

    async def _page(self, address: str) -> bytes:
        """Read the first 64 KiB of what is at an address, head and framing included."""
        parts = urlsplit(address)
        if parts.scheme == "file" or not parts.scheme:
            page = Path(unquote(parts.path)) / "index.html"
            return await asyncio.to_thread(_read_start, page)
        destination = _destination(address)
        accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5, application/json;q=0.4"
        lines = [f"GET {parts.path} HTTP/1.1", f"Host: {_netloc(destination)}", f"Accept: {accept}"]
        authorization = self._indexes.authorizations.get(destination)
        if authorization is not None:
            lines.append(f"Authorization: {authorization}")
        lines += ["Accept-Encoding: identity", "User-Agent: clawplane", "Connection: close", "", ""]
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(PAGE_SECONDS):
                reader, writer = await self.dial(destination)
                try:
                    if parts.scheme == "https":
                        await writer.start_tls(await self._trust(destination.host), server_hostname=destination.host)
                    writer.write("\r\n".join(lines).encode("latin-1"))
                    return await _read_up_to(reader, PAGE_BYTES)
                finally:
                    writer.close()
        return b""

    async def _trust(self, host: str) -> ssl.SSLContext:
        """Load certificates beside the event loop: that takes tens of milliseconds."""
        if host not in self._contexts:
            self._contexts[host] = await asyncio.to_thread(self._indexes.trust, host)
        return self._contexts[host]


def _destination(address: str) -> Destination:
    destination = destination_of(address)
    if destination is None:
        raise ValueError(f"{address} is no http or https address")
    return destination


def _try_destination(link: str) -> Destination | None:
    try:
        return destination_of(link)
    except ValueError:
        return None


def _in_plain(address: str) -> Destination:
    """Name an index as a plain HTTP destination: the same host, the scheme's usual port as port 80."""
    parts = urlsplit(address)
    return Destination(_destination(address).host, parts.port or 80)


def _netloc(destination: Destination, *, always: bool = False) -> str:
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    return host if destination.port in {80, 443} and not always else f"{host}:{destination.port}"


async def _read_up_to(reader: asyncio.StreamReader, maximum: int) -> bytes:
    content = b""
    while len(content) < maximum and (chunk := await reader.read(maximum)):
        content += chunk
    return content


def _read_start(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(PAGE_BYTES)
    return b""


def _tree_of(address: str) -> str:
    """Return the path below which an index keeps its pages and its files, which often lie beside the pages."""
    path = urlsplit(address).path.rstrip("/")
    return path.removesuffix("/simple") + "/"
