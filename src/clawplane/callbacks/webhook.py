"""Post signed notices to addresses that callers choose.

What is sent, beside the JSON body:

    Clawplane-Delivery    the notice's id: the same at every try, so that a receiver can drop a repeat
    Clawplane-Timestamp   seconds since 1970 of this try
    Clawplane-Signature   v1=HEX, the HMAC-SHA256 of `TIMESTAMP.BODY` under the shared secret

A receiver computes the HMAC over the timestamp, a dot and the body's bytes as they came, compares in constant time,
and refuses timestamps more than five minutes off and ids that it has seen within those: nothing recorded can be played
again.

Where it is sent. The address is a caller's, so it could point into the operator's own network. The name is looked up
once, each address is judged, and the connection goes to one of those that were judged: a name that answers differently
a moment later gains nothing. TLS is still checked against the name. Private addresses need the operator's leave.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import httpx

from clawplane.callbacks.answers import Answer, CannotConnect, CannotSend, NotAllowed, plain_client, post

Address = IPv4Address | IPv6Address
Judge = Callable[[Address], str | None]
"""Return what an address is when it is not a public one, in words; None when it is."""
Lookup = Callable[[str], Sequence[Address]]
"""Return the addresses of a name; may block, raises OSError."""

_LOOKUP_SECONDS: Final = 10.0
_TRIED: Final = 3


class Webhooks:
    """Sends signed notices. `allow` names hosts, addresses and networks that may be private; `*` is all of them."""

    def __init__(
        self,
        secret: str,
        *,
        judge: Judge,
        lookup: Lookup,
        allow: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        client: Callable[..., httpx.AsyncClient] = plain_client,
    ) -> None:
        self._secret = secret
        self._judge = judge
        self._lookup = lookup
        self._allow = Allowed(allow)
        self._clock = clock
        # a connection was checked against one name; another name at the same address must not be sent over it
        self._client = client(kept=0)

    async def send(self, url: str, body: bytes, *, delivery: str, secret: str = "") -> Answer:
        """Post one notice, signed with its own secret or else the operator's; raises NotAllowed, CannotSend."""
        key = secret or self._secret
        if not key:
            raise NotAllowed("there is no secret to sign webhooks with")
        parts = checked(url)
        timestamp = str(int(self._clock()))
        headers = {
            "Host": parts.netloc.decode("ascii"),
            "Clawplane-Delivery": delivery,
            "Clawplane-Timestamp": timestamp,
            "Clawplane-Signature": f"v1={signature(key, timestamp, body)}",
        }
        extensions = {"sni_hostname": parts.raw_host.decode("ascii")} if parts.scheme == "https" else None
        failure = CannotConnect("the connection failed")
        for address in (await self._judged(parts))[:_TRIED]:
            at = parts.copy_with(host=str(address))
            try:
                return await post(self._client, at, content=body, headers=headers, extensions=extensions)
            except CannotConnect as error:
                failure = error
        raise failure

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _judged(self, parts: httpx.URL) -> list[Address]:
        """Return the addresses that may be connected to, at least one."""
        name = parts.raw_host.decode("ascii")
        try:
            found: Sequence[Address] = [ip_address(name.strip("[]"))]
        except ValueError:
            found = await self._looked_up(name)
        refused = ""
        good = []
        for address in found:
            reason = self._judge(address)
            if reason is None or self._allow(name, address):
                good.append(address)
            else:
                refused = reason
        if not good:
            raise NotAllowed(f"the webhook's host is {refused}; the operator can allow it" if refused else "no address")
        return good

    async def _looked_up(self, name: str) -> Sequence[Address]:
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS):
                found = await asyncio.to_thread(self._lookup, name)
        except (OSError, TimeoutError, UnicodeError):
            raise CannotSend("the name could not be looked up") from None
        if not found:
            raise CannotSend("the name has no address")
        return found


class Allowed:
    """The hosts and networks that an operator allows beyond the public ones."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._all = "*" in entries
        self._names: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            try:
                self._networks.append(ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry.lower().rstrip("."))

    def __call__(self, name: str, address: Address) -> bool:
        """Tell whether a name, or the address it leads to, is allowed."""
        return (
            self._all
            or name.lower().rstrip(".") in self._names
            or any(address in network for network in self._networks if network.version == address.version)
        )


def checked(url: str) -> httpx.URL:
    """Return a webhook's address, parsed; raises NotAllowed when it is none that can be posted to."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise NotAllowed("the webhook's address cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.host or parts.userinfo or parts.fragment:
        raise NotAllowed("a webhook's address is http:// or https:// with a host, without user name and fragment")
    return parts


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a notice in hexadecimal digits."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
