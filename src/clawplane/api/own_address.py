"""Say under which address a request reached us, for links in its answer, without believing its Host header.

Links carry signed tokens. Whoever could choose the Host header of somebody else's request (through a proxy, a cache, or
an agent that was talked into it) would get that token when the link is followed. So Host counts only where it names the
place where the request arrived: the very address and port, this host's own name, or loopback, whose port may be the
near end of a tunnel. Everything else is answered with the address of the socket. An operator whose clients know another
name sets CLAWPLANE_PUBLIC_URL.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from starlette.requests import Request

_DEFAULT_PORTS = {"http": 80, "https": 443}


def own_address(request: Request, public_url: str | None) -> str:
    """Return the address of this server without a slash at its end; `public_url` if there is one."""
    if public_url is not None:
        return public_url
    scheme = request.url.scheme
    server = request.scope.get("server") or ("127.0.0.1", None)
    name, port = str(server[0]), server[1] or _DEFAULT_PORTS[scheme]
    named = _named(scheme, request.headers.get("host", ""))
    if named is not None and _is_ours(named, (name, port)):
        name, port = named
    shown = f"[{name}]" if ":" in name else name
    return f"{scheme}://{shown}" + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")


def _named(scheme: str, host: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(f"{scheme}://{host}")
        port = parts.port or _DEFAULT_PORTS[scheme]
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and parts.netloc == host and "@" not in host else None


def _is_ours(named: tuple[str, int], server: tuple[str, int]) -> bool:
    name, port = named
    if _is_loopback(server[0]) and (name == "localhost" or _is_loopback(name)):
        return True
    return port == server[1] and name in (server[0].lower(), os.uname().nodename.lower())


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
