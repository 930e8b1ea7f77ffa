from __future__ import annotations

import asyncio
import gzip
import inspect
from typing import Any, TypedDict

import pytest

from clawplane.api.errors import to_response
from clawplane.client.http import Http, segment
from clawplane.domain import errors
from clawplane.domain.errors import (
    ClawplaneError,
    InternalError,
    InvalidArgument,
    InvalidToken,
    NotFound,
    Unavailable,
)


class Shape(TypedDict):
    a: int


KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ClawplaneError) and kind is not ClawplaneError
]


@pytest.mark.parametrize("path", ["/v1/things", "/api/v2/things"])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_error_of_the_server_arrives_as_itself_with_its_sentence_and_hint(
    peer: Any, http: Http, answers: Any, kind: type[ClawplaneError], path: str
) -> None:
    wire = to_response(kind("Something is wrong here.", hint="Mend it."), path=path, request_id="r")
    peer.answers = [answers.reply(wire.body, status=wire.status_code)]
    with pytest.raises(kind) as raised:
        await http.request("GET", path)
    assert type(raised.value) is kind
    assert (raised.value.message, raised.value.hint) == ("Something is wrong here.", "Mend it.")


async def test_details_arrive_without_what_the_hint_says_already(peer: Any, http: Http, answers: Any) -> None:
    wire = to_response(
        InvalidArgument("Two things.", hint="Mend them.", details=["first", "second"]), path="/v1/x", request_id="r"
    )
    peer.answers = [answers.reply(wire.body, status=400)]
    with pytest.raises(InvalidArgument) as raised:
        await http.request("GET", "/v1/x")
    assert raised.value.details == ("first", "second")


async def test_an_answer_of_the_shape_asked_for_is_returned_with_all_its_members(
    peer: Any, http: Http, answers: Any
) -> None:
    peer.answers = [answers.envelope({"a": 1, "new": True})]
    assert await http.ask("GET", "/v1/x", Shape) == {"a": 1, "new": True}
    assert peer.headers[0]["authorization"] == f"Bearer {'k' * 20}"


FOREIGN = {
    "another shape": (lambda a: a.envelope({"a": "one"}), InternalError),
    "no data": (lambda a: a.reply(b'{"code": 0}'), InternalError),
    "a web page": (lambda a: a.reply(b"<html>", media="text/html"), InternalError),
    "a redirect": (lambda a: a.reply(b"", status=302, extra="Location: http://127.0.0.1:1/\r\n"), InternalError),
    "a list": (lambda a: a.reply(b"[1]"), InternalError),
    "deep JSON": (lambda a: a.reply(b"[" * 100_000), InternalError),
    "broken gzip": (lambda a: a.reply(b"\x1f\x8bnothing", extra="Content-Encoding: gzip\r\n"), InternalError),
    "half a body": (lambda a: a.reply(b'{"code": 0}')[:-3], Unavailable),
    "a proxy's error page": (lambda a: a.reply(b"<html>", status=502, media="text/html"), Unavailable),
    "a foreign refusal": (lambda a: a.reply(b'{"code": [1], "details": 7, "hint": {}}', status=418), InvalidArgument),
    "a foreign 404": (lambda a: a.reply(b"nope", status=404, media="text/plain"), NotFound),
    "no HTTP": (lambda _: b"SSH-2.0-OpenSSH_9.2\r\n", Unavailable),
    "silence": (lambda _: None, Unavailable),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_whatever_else_answers_ends_in_an_error_of_ours(peer: Any, http: Http, answers: Any, name: str) -> None:
    make, kind = FOREIGN[name]
    peer.answers = [make(answers)]
    with pytest.raises(kind) as raised:
        await http.ask("GET", "/v1/x", Shape)
    assert raised.value.message


async def test_an_answer_that_is_compressed_is_read(peer: Any, http: Http, answers: Any) -> None:
    packed = gzip.compress(b'{"code": 0, "data": {"a": 1}}')
    peer.answers = [answers.reply(packed, extra="Content-Encoding: gzip\r\n")]
    assert await http.ask("GET", "/v1/x", Shape) == {"a": 1}


async def test_a_server_that_is_not_there_is_named_with_the_way_out(unused_tcp_port_: int) -> None:
    http = Http(f"http://127.0.0.1:{unused_tcp_port_}", None)
    with pytest.raises(Unavailable) as raised:
        await http.request("GET", "/v1/x")
    await http.close()
    assert str(unused_tcp_port_) in raised.value.message
    assert "clawplane up" in raised.value.hint


@pytest.fixture
async def unused_tcp_port_() -> int:
    server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_a_stream_that_is_silent_for_too_long_is_given_up(peer: Any, http: Http) -> None:
    silent = asyncio.Event()

    async def begin(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        await silent.wait()

    peer.answers = [begin]
    with pytest.raises(Unavailable, match="in time"):
        await anext(http.stream("/v1/x", timeout=0.05))
    silent.set()


async def test_lines_are_joined_over_chunks_and_signs_of_life_are_skipped(peer: Any, http: Http) -> None:
    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b'{"a"', b': 1}\n{"a": 2}', b"\n", b"\n\n", b'{"a": 3}\n'):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    peer.answers = [play]
    assert [entry async for entry in http.lines("/v1/x", Shape)] == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("line", ["nonsense", {"b": 1}, [1]])
async def test_a_line_that_is_something_else_ends_the_stream_with_an_error(
    peer: Any, http: Http, answers: Any, line: Any
) -> None:
    peer.answers = [answers.lines(line)]
    with pytest.raises(InternalError):
        async for _ in http.lines("/v1/x", Shape):
            pass


async def test_a_refusal_of_a_stream_is_the_same_error_as_of_a_request(peer: Any, http: Http, answers: Any) -> None:
    wire = to_response(errors.RunNotFound("There is no run."), path="/v1/x", request_id="r")
    peer.answers = [answers.reply(wire.body, status=404)]
    with pytest.raises(errors.RunNotFound):
        async for _ in http.stream("/v1/x"):
            pass


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two words", "line\nbreak", "\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InvalidToken) as raised:
        Http("http://127.0.0.1:1", key)
    assert key not in raised.value.message + raised.value.hint


def test_an_address_that_cannot_be_parsed_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no address"):
        Http("http://[::1", None)


@pytest.mark.parametrize(
    ("value", "text"), [("local~prices", "local~prices"), ("a/b?c#d", "a%2Fb%3Fc%23d"), ("ü", "%C3%BC")]
)
def test_a_name_becomes_one_segment_of_a_path(value: str, text: str) -> None:
    assert segment(value) == text


@pytest.mark.parametrize("value", ["", ".", "..", "\udcff"])
def test_a_name_that_no_path_can_carry_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument):
        segment(value)


async def test_text_that_is_no_unicode_is_refused_before_it_is_sent(peer: Any, http: Http, answers: Any) -> None:
    peer.answers = [answers.envelope({})]
    for arguments in ({"query": {"keyword": "\udcff"}}, {"body": {"name": "\udcff"}}):
        with pytest.raises(InvalidArgument, match="Unicode"):
            await http.request("GET", "/v1/x", **arguments)
    assert peer.requests == []
