"""Tell public addresses from all others.

The tables are written out instead of asking `ipaddress` alone: what it calls global differs between Python versions,
and it counts multicast and translated addresses in. It is asked besides, so that what it learns later is refused too.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PRIVATE: Final = "a private address"
_LOOPBACK: Final = "a loopback address"
_LINK_LOCAL: Final = "a link-local address"
_METADATA: Final = "a cloud metadata address"
_RESERVED: Final = "a reserved address"
_SHARED: Final = "a carrier's shared address"
_MULTICAST: Final = "a multicast or broadcast address"
_EMBEDDING: Final = "an address that embeds another"

_NOT_PUBLIC_4: Final = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("169.254.169.254/32", _METADATA),
        ("100.100.100.200/32", _METADATA),
        ("168.63.129.16/32", _METADATA),
        ("0.0.0.0/8", _LOOPBACK),  # Linux connects 0.0.0.0 to itself
        ("10.0.0.0/8", _PRIVATE),
        ("100.64.0.0/10", _SHARED),
        ("127.0.0.0/8", _LOOPBACK),
        ("169.254.0.0/16", _LINK_LOCAL),
        ("172.16.0.0/12", _PRIVATE),
        ("192.0.0.0/24", _RESERVED),
        ("192.0.2.0/24", _RESERVED),
        ("192.88.99.0/24", _EMBEDDING),
        ("192.168.0.0/16", _PRIVATE),
        ("198.18.0.0/15", _RESERVED),
        ("198.51.100.0/24", _RESERVED),
        ("203.0.113.0/24", _RESERVED),
        ("224.0.0.0/4", _MULTICAST),
        ("255.255.255.255/32", _MULTICAST),
        ("240.0.0.0/4", _RESERVED),
    )
)

_PUBLIC_6: Final = IPv6Network("2000::/3")
"""All that is handed out for the public internet; the rest of IPv6 is special."""

_NOT_PUBLIC_6: Final = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("::/128", _LOOPBACK),
        ("::1/128", _LOOPBACK),
        ("fd00:ec2::254/128", _METADATA),
        ("fd20:ce::254/128", _METADATA),
        ("::/96", _EMBEDDING),  # IPv4-compatible
        ("::ffff:0:0/96", _EMBEDDING),  # IPv4-mapped
        ("::ffff:0:0:0/96", _EMBEDDING),  # IPv4-translated
        ("64:ff9b::/96", _EMBEDDING),  # NAT64
        ("64:ff9b:1::/48", _EMBEDDING),
        ("2001::/32", _EMBEDDING),  # Teredo
        ("2002::/16", _EMBEDDING),  # 6to4
        ("2001::/23", _RESERVED),
        ("2001:db8::/32", _RESERVED),
        ("3fff::/20", _RESERVED),
        ("fc00::/7", _PRIVATE),
        ("fe80::/10", _LINK_LOCAL),
        ("fec0::/10", _PRIVATE),
        ("ff00::/8", _MULTICAST),
    )
)
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})
"""The upper half of an interface identifier whose lower half is an IPv4 address."""


def why_not_public(address: Address) -> str | None:
    """Return what an address is, in words, when it is not a public one; None when it is."""
    if isinstance(address, IPv4Address):
        for network4, what in _NOT_PUBLIC_4:
            if address in network4:
                return what
    else:
        for network6, what in _NOT_PUBLIC_6:
            if address in network6:
                return what
        if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return _EMBEDDING
        if address not in _PUBLIC_6 or address.scope_id is not None:
            return _RESERVED
    if not address.is_global or address.is_multicast or address.is_reserved:
        return _RESERVED
    return None
