from __future__ import annotations

from ipaddress import ip_address

import pytest

from clawplane.egress.hosts import read_destination
from clawplane.egress.rules import Decision, OperatorRules, Rules, read_named_host, read_pattern


def judge(rules: Rules, host: str, port: int = 443) -> Decision:
    return rules.judge(read_destination(host, port))


@pytest.mark.parametrize(
    ("pattern", "host", "port", "covers"),
    [
        ("example.com", "example.com", 80, True),
        ("Example.COM.", "EXAMPLE.com", 80, True),
        ("example.com", "www.example.com", 80, False),
        ("example.com", "notexample.com", 80, False),
        ("*.example.com", "www.example.com", 80, True),
        ("*.example.com", "a.b.example.com", 80, True),
        ("*.example.com", "example.com", 80, False),
        ("*.example.com", "evilexample.com", 80, False),
        ("example.com:443", "example.com", 443, True),
        ("example.com:443", "example.com", 22, False),
        ("bücher.example", "xn--bcher-kva.example", 80, True),
        ("198.51.100.0/24", "198.51.100.7", 80, True),
        ("198.51.100.0/24", "198.51.101.7", 80, False),
        ("198.51.100.7", "0xc6336407", 80, True),
        ("[2001:db8::1]:80", "2001:db8:0::1", 80, True),
        ("2001:db8::/32", "2001:db8:ffff::1", 80, True),
        ("[2001:db8::]/32:443", "2001:db8:ffff::1", 80, False),
        ("*:25", "anything.example", 25, True),
        ("*", "192.0.2.1", 1, True),
        ("*:25", "anything.example", 26, False),
    ],
)
def test_a_pattern_covers_what_it_says(pattern: str, host: str, port: int, covers: bool) -> None:
    assert read_pattern(pattern).covers(read_destination(host, port)) is covers


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a b", "example.com:0", "example.com:70000", "10.0.0.0/33", "example.com/24", "*.", "**.a", "a:b",
     "http://example.com", "[::1", "fe80::1%eth0", "*./8"],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_is_shown_in_the_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"no |cannot|port") as error:
        read_pattern(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "*", "*:80", "::/0"])
def test_the_operator_opens_private_places_host_by_host_only(text: str) -> None:
    with pytest.raises(ValueError, match="names no single host"):
        read_named_host(text)


def test_public_rules_let_names_and_public_addresses_pass_and_nothing_else() -> None:
    rules = OperatorRules.read().rules()
    assert judge(rules, "example.com").allowed
    assert judge(rules, "1.1.1.1").allowed
    assert judge(rules, "0x7f.1") == Decision(False, "it is a loopback address")
    public = ip_address("1.1.1.1"), ip_address("10.0.0.1")
    verdicts = [rules.judge_address(read_destination("example.com", 80), address) for address in public]
    assert verdicts == [Decision(True), Decision(False, "it resolves to a private address")]


def test_deny_wins_over_everything_by_name_and_by_address() -> None:
    rules = OperatorRules.read(trusted_hosts=["a.example"], deny=["a.example", "1.1.1.0/24", "*:25"]).rules()
    for host, port in (("a.example", 443), ("1.1.1.1", 443), ("b.example", 25)):
        assert judge(rules, host, port).reason == "it is on the deny list"
    found = rules.judge_address(read_destination("b.example", 443), ip_address("1.1.1.7"))
    assert found.reason == "its address is on the deny list"


def test_a_trusted_name_may_be_anywhere_under_its_port_only() -> None:
    rules = OperatorRules.read(trusted_hosts=["mirror.corp:8081", "10.0.0.5:5432"]).rules()
    assert judge(rules, "mirror.corp", 8081) == Decision(True, anywhere=True)
    assert judge(rules, "mirror.corp", 8082) == Decision(True)  # as any other name: its addresses have to be public
    assert judge(rules, "10.0.0.5", 5432).anywhere
    assert not judge(rules, "10.0.0.5", 5433).allowed


def test_what_belongs_to_the_platform_is_closed_unless_the_operator_names_it() -> None:
    operator = OperatorRules.read(forbidden=["plane.example:443", "1.1.1.1:443"])
    assert judge(operator.rules(allow=["plane.example"]), "Plane.Example.").reason == "it belongs to the platform"
    assert judge(operator.rules("listed", allow=["plane.example"]), "plane.example").allowed is False
    found = operator.rules().judge_address(read_destination("alias.example", 443), ip_address("1.1.1.1"))
    assert found.reason == "its address belongs to the platform"
    assert judge(operator.rules(), "plane.example", 80).allowed
    assert judge(operator.trusting(["plane.example:443"]).rules(), "plane.example").allowed


def test_listed_rules_refuse_every_other_name_without_asking_for_its_address() -> None:
    rules = OperatorRules.read().rules("listed", allow=["*.example.com:443", "1.1.1.1"])
    assert judge(rules, "www.example.com").allowed
    assert judge(rules, "1.1.1.1", 80).allowed
    data = "a" * 63 + ".tunnel.example"
    assert judge(rules, data) == Decision(False, "it is not on the allow list")


def test_a_session_cannot_allow_itself_what_is_not_public() -> None:
    rules = OperatorRules.read().rules("listed", allow=["10.0.0.1", "*", "localhost"])
    assert not judge(rules, "10.0.0.1").allowed
    assert not rules.judge_address(read_destination("localhost", 80), ip_address("127.0.0.1")).allowed


def test_nothing_passes_when_it_is_switched_off() -> None:
    rules = OperatorRules.read(trusted_hosts=["a.example"]).rules("none")
    assert judge(rules, "a.example").reason == "connections to the outside are switched off"
    assert not judge(OperatorRules.read(mode="none").rules("public"), "example.com").allowed


@pytest.mark.parametrize(
    ("own", "host", "port", "allowed"),
    [
        ("a.example", "a.example", 443, True),
        ("a.example", "a.example", 80, False),
        ("*", "b.example", 80, True),
        ("*", "c.example", 80, False),
        ("c.example", "c.example", 80, False),
        ("b.example:80", "b.example", 443, False),
        ("x.suffix.example", "x.suffix.example", 1, True),
        ("x.suffix.example", "y.suffix.example", 1, False),
        ("*.suffix.example", "y.suffix.example", 1, True),
        ("*.example", "y.suffix.example", 1, True),
        ("10.0.0.0/8", "10.0.0.5", 1, True),
        ("10.0.0.0/8", "10.0.0.6", 1, False),
    ],
)
def test_a_sessions_list_never_goes_beyond_the_operators(own: str, host: str, port: int, allowed: bool) -> None:
    operator = OperatorRules.read(
        mode="listed", trusted_hosts=["a.example:443", "b.example", "*.suffix.example", "10.0.0.5"]
    )
    assert judge(operator.rules("listed", allow=[own]), host, port).allowed is allowed


def test_names_of_local_networks_are_not_left_to_an_upstream_proxy() -> None:
    rules = OperatorRules.read().rules()
    for name in ("localhost", "router", "printer.local", "metadata.google.internal", "a.localhost"):
        assert not rules.judge_unresolved(read_destination(name, 80)).allowed
    assert rules.judge_unresolved(read_destination("example.com", 80)).allowed
