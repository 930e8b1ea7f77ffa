"""Sessions over HTTP: plain answers, plain refusals, and streams that are closed early."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from clawplane.client.http import Http
from clawplane.client.sessions import SessionsClient
from clawplane.domain.errors import Conflict, InternalError, InvalidSchema, NotFound, Unavailable

SESSION = {"id": "01S", "state": "running"}


class Played:
    """A control plane that answers each request with the same response, and keeps what was asked."""

    def __init__(self, status: int = 200, body: Any = None, content: bytes | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self._response = (status, json.dumps(body).encode() if content is None else content)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(await request.aread())
        status, content = self._response
        return httpx.Response(status, content=content)

    def client(self) -> SessionsClient:
        return SessionsClient(Http("http://127.0.0.1:1", "k", transport=httpx.MockTransport(self)))


async def test_a_plain_answer_is_the_value_itself() -> None:
    played = Played(body=SESSION)
    assert await played.client().show("01S") == SESSION
    assert await played.client().act("01S", "rollback", execs=2) == SESSION
    assert [request.url.path for request in played.requests] == ["/v1/sessions/01S", "/v1/sessions/01S/rollback"]
    assert played.bodies[1] == b'{"execs":2}'


async def test_options_that_are_none_are_left_to_the_server() -> None:
    played = Played(201, SESSION)
    await played.client().create(name="n", profile=None, sleep_after=0)
    assert json.loads(played.bodies[0]) == {"name": "n", "sleep_after": 0}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", NotFound),
        (422, "invalid_schema", InvalidSchema),
        (409, "conflict", Conflict),
        (503, "something_newer", Unavailable),
    ],
)
async def test_a_plain_refusal_is_an_error_of_our_tree(status: int, code: str, kind: type[Exception]) -> None:
    played = Played(status, {"error": "A sentence.", "code": code, "hint": "A way out."})
    with pytest.raises(kind, match=r"A sentence\.") as caught:
        await played.client().show("01S")
    assert caught.value.hint == "A way out."  # type: ignore[attr-defined]


async def test_an_answer_of_another_shape_is_not_passed_on() -> None:
    with pytest.raises(InternalError):
        await Played(body={"state": 7}).client().show("01S")
    with pytest.raises(InternalError):
        await Played(body=["01S"]).client().show("01S")


@pytest.mark.parametrize(("tool", "field"), [("python", "code"), ("shell", "command"), ("node", "code")])
async def test_an_exec_is_a_stream_that_ends_with_its_result(tool: str, field: str) -> None:
    answer = {"stdout": "", "stderr": "", "error": None, "session_id": "01S"}
    lines = [{"type": "session", "session_id": "01S"}, {"type": "ping"}, {"type": "end", "result": answer}]
    played = Played(content=b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    events = [event async for event in played.client().execute(tool, "x", session="01S", timeout=2)]
    assert [event["type"] for event in events] == ["session", "end"]
    assert played.requests[0].url.path == f"/v1/tools/execute_{tool}"
    assert json.loads(played.bodies[0]) == {field: "x", "session_id": "01S", "timeout": 2, "stream": "ndjson"}


async def test_a_refusal_in_the_stream_is_an_error() -> None:
    line = b'{"type": "error", "error": "It was lost.", "code": "conflict"}\n'
    with pytest.raises(Conflict, match="It was lost"):
        [event async for event in Played(content=line).client().execute("python", "x")]


async def test_a_stream_that_breaks_off_is_told_from_one_that_ends() -> None:
    with pytest.raises(Unavailable, match="broke off"):
        [event async for event in Played(content=b'{"type": "ping"}\n').client().execute("python", "x")]


async def test_closing_an_exec_early_closes_its_connection() -> None:
    class Endless(httpx.AsyncByteStream):
        closed = False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b'{"type": "stdout", "text": "x"}\n'

        async def aclose(self) -> None:
            self.closed = True

    endless = Endless()
    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=endless))
    client = SessionsClient(Http("http://127.0.0.1:1", "k", transport=transport))
    async with aclosing(client.execute("python", "x")) as events:
        async for _ in events:
            break
    assert endless.closed


async def test_files_travel_as_they_are() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    entry = {"path": "a b", "kind": "file", "size": 2, "modified_at": 0}
    up = Played(201, {"session_id": "01S", "file": entry, "error": None})
    assert (await up.client().upload("01S", "a b", pieces()))["size"] == 2
    assert up.bodies == [b"ab"]
    assert up.requests[0].url.params["path"] == "a b"
    down = Played(content=b"\x00\xff")
    assert [chunk async for chunk in down.client().download("01S", "a b")] == [b"\x00\xff"]
    assert (down.requests[0].url.path, down.requests[0].url.params["path"]) == ("/v1/sessions/01S/files/content", "a b")
