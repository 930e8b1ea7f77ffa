"""SOCKS5 conversations as playbooks: each line is who speaks and the bytes."""

from __future__ import annotations

import pytest

from clawplane.egress.protocol import Conversation, Credentials, Reply, State, Wanted

LOGIN = Credentials("user", "pa:ss")
IPV4 = "05 01 00 01 c0 00 02 01 01 bb"
NAME = "05 01 00 03 0b 65 78 61 6d 70 6c 65 2e 63 6f 6d 00 50"
IPV6 = "05 01 00 04 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 00 16"
SIGNED_IN = [("C", "05 01 02"), ("S", "05 02"), ("C", "01 04 75 73 65 72 05 70 61 3a 73 73"), ("S", "01 00")]

ACCEPTED = {
    "an IPv4 address without a login": (None, [("C", "05 01 00"), ("S", "05 00"), ("C", IPV4)], ("192.0.2.1", 443)),
    "an IPv6 address": (None, [("C", "05 01 00"), ("S", "05 00"), ("C", IPV6)], ("2001:db8::1", 22)),
    "a name, of several methods the one that is open": (
        None,
        [("C", "05 03 01 02 00"), ("S", "05 00"), ("C", NAME)],
        ("example.com", 80),
    ),
    "a name after a login": (LOGIN, [*SIGNED_IN, ("C", NAME)], ("example.com", 80)),
    "a login although more was offered": (
        LOGIN,
        [("C", "05 02 00 02"), *SIGNED_IN[1:], ("C", IPV4)],
        ("192.0.2.1", 443),
    ),
    "everything at once, without waiting for answers": (
        LOGIN,
        [("C", "05 01 02 01 04 75 73 65 72 05 70 61 3a 73 73 " + NAME), ("S", "05 02 01 00")],
        ("example.com", 80),
    ),
    "a name in UTF-8, for the rules to judge": (
        None,
        [("C", "05 01 00"), ("S", "05 00"), ("C", "05 01 00 03 03 c3 bc 2e 00 50")],
        ("ü.", 80),
    ),
    "a name with a NUL, for the rules to refuse": (
        None,
        [("C", "05 01 00"), ("S", "05 00"), ("C", "05 01 00 03 03 61 00 62 00 50")],
        ("a\0b", 80),
    ),
}

REFUSED = {
    "SOCKS4": (None, [("C", "04 01 00 50 c0 00 02 01 00"), ("S", "")], "does not speak SOCKS5"),
    "HTTP": (None, [("C", "47 45 54 20 2f"), ("S", "")], "does not speak SOCKS5"),
    "no method at all": (None, [("C", "05 00"), ("S", "05 ff")], "without authentication"),
    "only a login where none is set": (None, [("C", "05 01 02"), ("S", "05 ff")], "without authentication"),
    "no login where one is set": (LOGIN, [("C", "05 01 00"), ("S", "05 ff")], "no user name and password"),
    "GSSAPI": (LOGIN, [("C", "05 01 01"), ("S", "05 ff")], "no user name and password"),
    "a wrong password": (
        LOGIN,
        [*SIGNED_IN[:2], ("C", "01 04 75 73 65 72 05 70 61 3a 73 74"), ("S", "01 01")],
        "is wrong",
    ),
    "an empty login": (LOGIN, [*SIGNED_IN[:2], ("C", "01 00 00"), ("S", "01 01")], "is wrong"),
    "a longer password that begins with the right one": (
        LOGIN,
        [*SIGNED_IN[:2], ("C", "01 04 75 73 65 72 06 70 61 3a 73 73 73"), ("S", "01 01")],
        "is wrong",
    ),
    "a request in place of a login": (LOGIN, [*SIGNED_IN[:2], ("C", NAME), ("S", "01 01")], "malformed"),
    "BIND": (
        None,
        [("C", "05 01 00"), ("S", "05 00"), ("C", "05 02" + IPV4[5:]), ("S", "05 07 00 01 00 00 00 00 00 00")],
        "only CONNECT",
    ),
    "UDP ASSOCIATE": (
        None,
        [("C", "05 01 00"), ("S", "05 00"), ("C", "05 03" + IPV4[5:]), ("S", "05 07 00 01 00 00 00 00 00 00")],
        "only CONNECT",
    ),
    "an unknown kind of address": (
        None,
        [("C", "05 01 00"), ("S", "05 00"), ("C", "05 01 00 02 00"), ("S", "05 08 00 01 00 00 00 00 00 00")],
        "type of the address",
    ),
    "a name that is no text": (
        None,
        [("C", "05 01 00"), ("S", "05 00"), ("C", "05 01 00 03 02 ff fe 00 50"), ("S", "05 02 00 01" + " 00" * 6)],
        "no text",
    ),
    "a request of another version": (
        None,
        [("C", "05 01 00"), ("S", "05 00"), ("C", "04 01 00 01 c0"), ("S", "")],
        "malformed",
    ),
}


def play(conversation: Conversation, script: list[tuple[str, str]], step: int) -> Wanted | None:
    """Feed the client's lines in pieces of `step` bytes and compare the server's; return what is wanted in the end."""
    wanted, answers = None, b""
    for who, text in script:
        data = bytes.fromhex(text)
        if who == "S":
            assert answers == data
            answers = b""
            continue
        for start in range(0, len(data), step):
            answer, found = conversation.receive(data[start : start + step])
            answers += answer
            wanted = wanted or found
    return wanted


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("playbook", ACCEPTED)
def test_a_conversation_ends_with_what_the_client_wants(playbook: str, step: int) -> None:
    credentials, script, wanted = ACCEPTED[playbook]
    conversation = Conversation(credentials)
    assert play(conversation, script, step) == Wanted(*wanted)
    assert conversation.state is State.DECIDING
    assert conversation.rest() == b""


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("playbook", REFUSED)
def test_a_conversation_that_goes_wrong_ends_with_the_code_for_it(playbook: str, step: int) -> None:
    credentials, script, reason = REFUSED[playbook]
    conversation = Conversation(credentials)
    assert play(conversation, script, step) is None
    assert conversation.state is State.ENDED
    assert reason in conversation.reason
    assert conversation.receive(bytes.fromhex(NAME)) == (b"", None)


def test_what_follows_the_request_is_kept_for_the_far_end() -> None:
    conversation = Conversation()
    _, wanted = conversation.receive(bytes.fromhex("05 01 00" + NAME) + b"GET / HTTP/1.0\r\n")
    conversation.receive(b"\r\n")
    assert wanted == Wanted("example.com", 80)
    assert conversation.reply(Reply.SUCCEEDED) == bytes.fromhex("05 00 00 01 00 00 00 00 00 00")
    assert conversation.rest() == b"GET / HTTP/1.0\r\n\r\n"
    assert conversation.rest() == b""


@pytest.mark.parametrize("code", list(Reply))
def test_every_reply_has_its_code_and_only_success_opens(code: Reply) -> None:
    conversation = Conversation()
    conversation.receive(bytes.fromhex("05 01 00" + NAME))
    assert conversation.reply(code)[:2] == bytes((5, code))
    assert conversation.state is (State.OPEN if code is Reply.SUCCEEDED else State.ENDED)


def test_credentials_do_not_show_their_password() -> None:
    assert LOGIN.password == "pa:ss"
    assert "pa:ss" not in repr(Credentials.read("user:pa:ss"))
    assert Credentials.read("user:pa:ss") == LOGIN
