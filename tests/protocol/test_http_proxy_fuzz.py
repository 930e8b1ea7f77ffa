"""The HTTP proxy's conversations: playbooks of what is refused, and whatever bytes a client sends."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawplane.egress.hosts import BadHost, read_destination
from clawplane.egress.http_protocol import HEAD_BYTES, BadRequest, Conversation, Refused, State
from clawplane.egress.protocol import Credentials, Wanted

OK = b"Host: a.example\r\n"
POST = b"POST http://a.example/ HTTP/1.1\r\n"

REFUSED = {
    "nothing of HTTP": b"\x05\x01\x00\r\n\r\n",
    "an origin form": b"GET / HTTP/1.1\r\n" + OK,
    "HTTPS without a tunnel": b"GET https://a.example/ HTTP/1.1\r\n" + OK,
    "another scheme": b"GET ftp://a.example/ HTTP/1.1\r\n" + OK,
    "a login in the address": b"GET http://user:secret@a.example/ HTTP/1.1\r\n" + OK,
    "a host that hides another": b"GET http://evil.example\\@a.example/ HTTP/1.1\r\n" + OK,
    "a Host header of another host": b"GET http://evil.example/ HTTP/1.1\r\n" + OK,
    "a Host header of another port": b"GET http://a.example:81/ HTTP/1.1\r\n" + OK,
    "two Host headers": b"GET http://a.example/ HTTP/1.1\r\n" + OK + OK,
    "no Host header": b"GET http://a.example/ HTTP/1.1\r\n",
    "an empty Host header": b"GET http://a.example/ HTTP/1.1\r\nHost:\r\n",
    "a fragment": b"GET http://a.example/#x HTTP/1.1\r\n" + OK,
    "a space in the target": b"GET http://a.example/ x HTTP/1.1\r\n" + OK,
    "a NUL in the host": b"GET http://a\0.example/ HTTP/1.1\r\n" + OK,
    "a NUL in a header": b"GET http://a.example/ HTTP/1.1\r\nX: a\0b\r\n" + OK,
    "a bare CR in a header": b"GET http://a.example/ HTTP/1.1\r\nX: a\rEvil: b\r\n" + OK,
    "a header with a space before its colon": POST + b"Content-Length : 3\r\n" + OK,
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n" + OK,
    "a length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n" + OK,
    "two encodings": POST + b"Transfer-Encoding: chunked, identity\r\n" + OK,
    "an encoding in disguise": POST + b"Transfer-Encoding: xchunked\r\n" + OK,
    "a length with a sign": POST + b"Content-Length: +3\r\n" + OK,
    "a folded Host": b"GET http://a.example/ HTTP/1.1\r\nHost:\r\n a.example\r\n evil\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n",
    "port 0": b"GET http://a.example:0/ HTTP/1.1\r\nHost: a.example:0\r\n",
    "a port beyond all": b"CONNECT a.example:65536 HTTP/1.1\r\n" + OK,
    "a tunnel without a port": b"CONNECT a.example HTTP/1.1\r\n" + OK,
    "a tunnel to an address": b"CONNECT http://a.example:80/ HTTP/1.1\r\n" + OK,
    "a tunnel with a login": b"CONNECT evil@a.example:443 HTTP/1.1\r\n" + OK,
    "a tunnel for another Host": b"CONNECT evil.example:443 HTTP/1.1\r\n" + OK,
    "a tunnel to another port than its Host": b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:22\r\n",
    "a tunnel with a body": b"CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 3\r\n" + OK,
    "a tunnel to an interface": b"CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\nHost: [fe80::1%25eth0]:443\r\n",
    "a head that is too large": b"GET http://a.example/ HTTP/1.1\r\nX: " + b"a" * (HEAD_BYTES + 1) + b"\r\n" + OK,
}

ACCEPTED = {
    "a tunnel": (b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n", ("a.example", 443)),
    "a tunnel whose Host has no port": (b"CONNECT a.example:443 HTTP/1.1\r\n" + OK, ("a.example", 443)),
    "a tunnel of HTTP/1.0": (b"CONNECT a.example:443 HTTP/1.0\r\n", ("a.example", 443)),
    "a tunnel to IPv6": (
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:DB8::1]:443\r\n",
        ("[2001:db8::1]", 443),
    ),
    "a request": (b"GET http://a.example/x HTTP/1.1\r\n" + OK, ("a.example", 80)),
    "a request to a port": (b"GET http://a.example:81/x HTTP/1.1\r\nHost: a.example:81\r\n", ("a.example", 81)),
    "a request without a path": (b"GET http://a.example?q=1 HTTP/1.1\r\n" + OK, ("a.example", 80)),
    "a request in other spellings": (b"GET HTTP://A.Example./ HTTP/1.1\r\nHost: a.example:80\r\n", ("A.Example.", 80)),
}


@pytest.mark.parametrize("playbook", REFUSED)
@pytest.mark.parametrize("step", [1, 100_000])
def test_a_request_that_two_parsers_could_read_in_two_ways_is_refused(playbook: str, step: int) -> None:
    data = REFUSED[playbook] + b"\r\n"
    conversation = Conversation()
    found = None
    for start in range(0, len(data), step):
        found = conversation.receive(data[start : start + step])
        if found is not None:
            break
    assert isinstance(found, Refused)
    assert found.answer.startswith(b"HTTP/1.1 4")
    assert b"secret" not in found.answer
    assert conversation.state is State.ENDED


@pytest.mark.parametrize("playbook", ACCEPTED)
def test_a_request_names_what_it_wants(playbook: str) -> None:
    head, wanted = ACCEPTED[playbook]
    assert Conversation().receive(head + b"\r\n") == Wanted(*wanted)


def test_a_tunnels_early_bytes_are_kept_and_a_requests_path_is_made_whole() -> None:
    tunnel = Conversation()
    tunnel.receive(b"CONNECT a.example:443 HTTP/1.0\r\n\r\n\x16\x03\x01")
    assert tunnel.accept() == (b"HTTP/1.1 200 Connection established\r\n\r\n", b"\x16\x03\x01")
    request = Conversation()
    request.receive(b"GET http://a.example?q=1 HTTP/1.1\r\n" + OK + b"\r\n")
    head = request.accept()[1]
    assert head.startswith(b"GET /?q=1 HTTP/1.1\r\nHost: a.example\r\n")
    assert b"connection: close\r\n" in head.lower()


def test_a_chunked_body_is_framed_anew_and_its_extensions_and_trailers_are_dropped() -> None:
    conversation = Conversation()
    head = POST + b"Transfer-Encoding: chunked\r\n" + OK + b"\r\n"
    conversation.receive(head)
    sent = conversation.accept()[1].partition(b"\r\n\r\n")[2]
    for piece in (b"3;evil=1\r\nab", b"c\r\n0\r\nX-Trailer: 1\r\n", b"\r\n"):
        sent += conversation.body(piece)
    assert conversation.state is State.OPEN
    assert b"evil" not in sent
    assert b"Trailer" not in sent
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n" + sent)
    assert isinstance(server.next_event(), h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += bytes(event.data)
    assert (body, type(event)) == (b"abc", h11.EndOfMessage)


@pytest.mark.parametrize("body", [b"xyz\r\n", b"-1\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"fffffffffffffffffffffffff\r\n"])
def test_a_malformed_body_is_not_passed_on(body: bytes) -> None:
    conversation = Conversation()
    conversation.receive(POST + b"Transfer-Encoding: chunked\r\n" + OK + b"\r\n")
    conversation.accept()
    with pytest.raises(BadRequest):
        conversation.body(body)


def test_what_follows_the_end_of_a_body_is_not_passed_on() -> None:
    conversation = Conversation()
    conversation.receive(POST + b"Content-Length: 3\r\n" + OK + b"\r\n")
    conversation.accept()
    with pytest.raises(BadRequest):
        conversation.body(b"abcGET /evil HTTP/1.1\r\n\r\n")


line = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"Host: a.example", b"Host: b.example", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"X: \x00",
         b"Connection: host", b" folded", b"Proxy-Authorization: Basic YTpi", b"Expect: 100-continue", b"Upgrade: h2c"]
    ),
)  # fmt: skip
target = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"http://a.example/", b"a.example:443", b"http://a.example@b.example/", b"http://[::1]/", b"*"]),
)
start = st.builds(
    lambda method, what, version: method + b" " + what + b" " + version,
    st.sampled_from([b"GET", b"POST", b"CONNECT", b"get", b"P\0ST"]),
    target,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b""]),
)
message = st.builds(
    lambda first, lines, body: b"\r\n".join([first, *lines, b"", b""]) + body,
    start,
    st.lists(line, max_size=5),
    st.binary(max_size=60),
)


@settings(max_examples=500)
@given(st.one_of(message, st.binary(max_size=200)), st.lists(st.integers(0, 300), max_size=4))
def test_no_bytes_raise_and_what_is_passed_on_is_one_request_for_the_host_that_was_judged(
    data: bytes, cuts: list[int]
) -> None:
    conversation, found, start, rest = Conversation(), None, 0, b""
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        found, start = conversation.receive(data[start:cut]), cut
        if found is not None:
            rest = data[cut:]
            break
    if not isinstance(found, Wanted) or not conversation.forwards:
        return
    sent = b""
    try:
        sent = conversation.accept()[1]
        if rest:
            sent += conversation.body(rest)
    except BadRequest:
        pass
    if not sent:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(sent)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    hosts = [value for name, value in event.headers if name == b"host"]
    assert len(hosts) == 1
    host, _, port = hosts[0].decode().partition(":") if not hosts[0].startswith(b"[") else (found.host, "", "")
    try:
        judged = read_destination(found.host, found.port)
    except BadHost:
        return  # the rules refuse it before anything is sent
    assert read_destination(host, int(port or found.port)) == judged
    assert event.target.startswith(b"/")


@settings(max_examples=300)
@given(message)
def test_nobody_gets_in_without_the_login(data: bytes) -> None:
    assert not isinstance(Conversation(Credentials("user", "secret-0123456789")).receive(data), Wanted)
