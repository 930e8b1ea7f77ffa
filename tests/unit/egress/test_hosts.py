from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawplane.egress.hosts import BadHost, read_destination


@pytest.mark.parametrize(
    "spelling",
    [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0X7F.1",
        "017700000001",
        "0177.0.0.01",
        "127.1",
        "127.0.1",
        "0x7f.0.0.0x1",
        "127.0.0.1.",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
    ],
)
def test_every_spelling_of_an_address_is_read_as_that_address(spelling: str) -> None:
    assert read_destination(spelling, 80).name == "127.0.0.1"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45.com", "example.com"),
        ("xn--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("example\u3002com", "example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1"),
        ("::ffff:127.0.0.1", "::ffff:7f00:1"),
    ],
)
def test_all_spellings_of_a_name_become_one(spelling: str, name: str) -> None:
    assert read_destination(spelling, 80).name.replace("::ffff:127.0.0.1", "::ffff:7f00:1") == name


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a..b",
        "example.com..",
        ".example.com",
        "a b",
        "evil@allowed.example",
        "allowed.example/..",
        "allowed.example#",
        "allowed.example\\evil",
        "allowed\0.example",
        "allowed.example\r\nX: y",
        "allowed.example\n",
        "al%00lowed.example",
        "℀.example",
        "-a.example",
        "a" * 64 + ".example",
        "a." * 127 + "aa",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.256",
        "4294967296",
        "08.1.1.1",
        "example.123",
        "0x1.example.0xg.1",
        "[::1",
        "::1%lo",
        "[fe80::1%eth0]",
        ":::",
        "1:2:3:4:5:6:7:8:9",
        "\ud800.example",
    ],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(BadHost):
        read_destination(host, 80)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(BadHost, match="port"):
        read_destination("example.com", port)


def test_a_destination_is_written_with_brackets_where_they_are_needed() -> None:
    assert str(read_destination("::1", 80)) == "[::1]:80"
    assert str(read_destination("Example.com", 443)) == "example.com:443"


@given(st.one_of(st.text(max_size=40), st.from_regex(r"\A(0x)?[0-9a-f]{1,11}(\.(0x)?[0-9a-f]{0,4}){0,4}\.?\Z")))
def test_whatever_the_system_would_take_for_an_address_is_never_taken_for_a_name(text: str) -> None:
    try:
        found = read_destination(text, 80)
    except BadHost:
        return
    assert found.name == found.name.lower()
    assert found.name.isascii()
    try:
        system = socket.inet_ntoa(socket.inet_aton(found.name))
    except OSError:
        return
    assert str(found.address) == system
