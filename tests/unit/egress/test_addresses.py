from __future__ import annotations

from ipaddress import ip_address

import pytest

from clawplane.egress.addresses import why_not_public


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("0.0.0.0", "loopback"),
        ("0.1.2.3", "loopback"),
        ("10.1.2.3", "private"),
        ("172.17.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "link-local"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.64.0.1", "carrier"),
        ("192.0.0.192", "reserved"),
        ("192.0.2.1", "reserved"),
        ("198.18.0.1", "reserved"),
        ("198.51.100.1", "reserved"),
        ("203.0.113.1", "reserved"),
        ("192.88.99.1", "embeds"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "multicast or broadcast"),
        ("::", "loopback"),
        ("::1", "loopback"),
        ("::127.0.0.1", "embeds"),
        ("::ffff:127.0.0.1", "embeds"),
        ("::ffff:8.8.8.8", "embeds"),
        ("::ffff:0:127.0.0.1", "embeds"),
        ("64:ff9b::7f00:1", "embeds"),
        ("64:ff9b:1::7f00:1", "embeds"),
        ("2002:7f00:1::", "embeds"),
        ("2001:0:7f00:1::", "embeds"),
        ("2606:4700::5efe:7f00:1", "embeds"),
        ("2606:4700::200:5efe:7f00:1", "embeds"),
        ("fd00:ec2::254", "metadata"),
        ("fd00::1", "private"),
        ("fe80::1", "link-local"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "reserved"),
        ("3fff::1", "reserved"),
        ("100::1", "reserved"),
        ("5f00::1", "reserved"),
        ("4000::1", "reserved"),
    ],
)
def test_an_address_that_is_not_public_is_called_by_its_kind(address: str, what: str) -> None:
    found = why_not_public(ip_address(address))
    assert found is not None
    assert what in found


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"])
def test_a_public_address_is_public(address: str) -> None:
    assert why_not_public(ip_address(address)) is None
