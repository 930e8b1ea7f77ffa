"""Read the host and port that somebody wants to reach into the one spelling in which they are judged.

A host can be written in many ways: upper case, a final dot, another alphabet, and an IPv4 address in decimal,
hexadecimal, octal and short forms that the system's resolver would understand. All of them end here as one lower-case
ASCII name or one address; what fits neither is refused, never passed on to a resolver that may know better.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import idna

from clawplane.egress.addresses import Address

LONGEST_NAME: Final = 253
HIGHEST_PORT: Final = 65_535
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"0x[0-9a-f]*|[0-9]+")
_WRITTEN_ADDRESS: Final = 45


class BadHost(ValueError):
    """A host or port that cannot be read; the message says why and repeats nothing of what was given."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What somebody wants to reach: `name` is a lower-case ASCII name or an address in its usual spelling."""

    name: str
    port: int
    address: Address | None = None
    """The address, when one was given instead of a name."""

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def read_destination(host: str, port: int) -> Destination:
    """Return a destination in the spelling in which it is judged; raises BadHost."""
    if not 1 <= port <= HIGHEST_PORT:
        raise BadHost(f"the port is not within 1 .. {HIGHEST_PORT}")
    address = read_address(host)
    return Destination(read_name(host), port) if address is None else Destination(str(address), port, address)


def read_address(host: str) -> Address | None:
    """Return the address that a host is in any spelling, None when it is a name; raises BadHost when it is neither."""
    if ":" in host or host.startswith("["):
        return _ipv6(host)
    labels = read_name(host).split(".")
    return _ipv4(labels) if _NUMBER.fullmatch(labels[-1]) else None


def read_name(host: str) -> str:
    """Return a name in lower case, ASCII, without its final dot; raises BadHost."""
    if len(host) > LONGEST_NAME + 1:
        raise BadHost(f"the name is longer than {LONGEST_NAME} characters")
    if not host.isascii():
        host = _ascii(host)
    name = host.lower().removesuffix(".")
    if not name:
        raise BadHost("the name is empty")
    if len(name) > LONGEST_NAME or not all(map(_LABEL.fullmatch, name.split("."))):
        raise BadHost("the name has characters or labels that no host name has")
    return name


def _ascii(host: str) -> str:
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except UnicodeError:
        raise BadHost("the name is not a valid international name") from None


def _ipv6(host: str) -> IPv6Address:
    text = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        if len(text) > _WRITTEN_ADDRESS or "%" in text:
            raise BadHost("the IPv6 address is malformed or names an interface")
        return IPv6Address(text)
    except AddressValueError:
        raise BadHost("the IPv6 address is malformed") from None


def _ipv4(labels: list[str]) -> IPv4Address:
    """Read an address as the system's resolver would: one to four numbers, the last one filling what is left."""
    if len(labels) > 4 or not all(map(_NUMBER.fullmatch, labels)):
        raise BadHost("the name ends in a number but is no address")
    *first, last = map(_number, labels)
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        raise BadHost("a number of the address is too large")
    value = last
    for place, number in enumerate(first):
        value |= number << (24 - 8 * place)
    return IPv4Address(value)


def _number(text: str) -> int:
    if text.startswith("0x"):
        return int(text[2:], 16) if len(text) > 2 else 0
    try:
        return int(text, 8 if text.startswith("0") and len(text) > 1 else 10)
    except ValueError:
        raise BadHost("a number of the address is no octal number") from None
