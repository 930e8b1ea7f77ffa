"""Whatever bytes a SOCKS5 client sends: no exception, no way in without the login, no way to a private place."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from clawplane.egress.addresses import why_not_public
from clawplane.egress.hosts import BadHost, read_destination
from clawplane.egress.protocol import Conversation, Credentials, State, Wanted
from clawplane.egress.rules import OperatorRules

SECRET = Credentials("u0123456789abcdef", "k3Jw-_0123456789abcdefABCDEF")
LOGIN = b"\x01\x11u0123456789abcdef\x1ck3Jw-_0123456789abcdefABCDEF"

small = st.integers(0, 255).map(lambda number: bytes([number]))
sized = st.binary(max_size=20).map(lambda body: bytes([len(body)]) + body)
private = st.sampled_from(
    ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "10.0.0.1", "::1", "::ffff:10.0.0.1", "169.254.169.254", "a\0b"]
)
address = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda body: b"\x01" + body),
    st.binary(min_size=16, max_size=16).map(lambda body: b"\x04" + body),
    sized.map(lambda body: b"\x03" + body),
    private.map(lambda name: b"\x03" + bytes([len(name)]) + name.encode()),
)
request = st.builds(lambda kind, port: b"\x05\x01\x00" + kind + port, address, st.binary(min_size=2, max_size=2))
pieces = st.lists(
    st.one_of(
        st.binary(max_size=30),
        small,
        st.just(b"\x05"),
        sized.map(lambda methods: b"\x05" + methods),
        st.just(b"\x05\x01\x00"),
        st.just(b"\x05\x02\x00\x02"),
        st.tuples(sized, sized).map(lambda pair: b"\x01" + pair[0] + pair[1]),
        request,
    ),
    max_size=8,
)


def converse(conversation: Conversation, data: bytes, cuts: list[int]) -> tuple[bytes, Wanted | None]:
    answers, wanted, start = b"", None, 0
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        answer, found = conversation.receive(data[start:cut])
        answers, start = answers + answer, cut
        assert wanted is None or found is None
        wanted = wanted or found
    return answers, wanted


@settings(max_examples=400)
@given(pieces, st.lists(st.integers(0, 10_000), max_size=6))
def test_no_bytes_raise_and_none_get_in_without_the_login(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    conversation = Conversation(SECRET)
    answers, wanted = converse(conversation, data, cuts)
    assert wanted is None or LOGIN in data
    assert b"\x01\x00" not in answers or LOGIN in data
    assert conversation.state in set(State) - {State.OPEN}


@settings(max_examples=400)
@given(pieces, st.lists(st.integers(0, 10_000), max_size=6))
def test_how_the_bytes_are_cut_into_packets_makes_no_difference(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    whole, cut = Conversation(), Conversation()
    assert converse(whole, data, []) == converse(cut, data, cuts)
    assert (whole.state, whole.reason, whole.rest()) == (cut.state, cut.reason, cut.rest())


@settings(max_examples=400)
@given(request)
def test_no_request_gets_a_private_address_past_the_rules(asked: bytes) -> None:
    conversation = Conversation()
    _, wanted = conversation.receive(b"\x05\x01\x00" + asked)
    if wanted is None:
        return
    try:
        destination = read_destination(wanted.host, wanted.port)
    except BadHost:
        return
    rules = OperatorRules.read().rules()
    allowed = rules.judge(destination).allowed
    if destination.address is not None:
        assert allowed is (why_not_public(destination.address) is None)
    else:  # a name: it has to look like one, and what it resolves to is judged again
        assert set(destination.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
        assert not rules.judge_address(destination, ip_address("10.0.0.1")).allowed
