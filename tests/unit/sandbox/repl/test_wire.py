"""The frames of the control socket: cut exactly, bounded, and never trusted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawplane.sandbox import repl_wire as wire
from clawplane.sandbox.inside.repl.wire import encode

SHOWN = {"op": "shown", "id": "1", "nonce": "n", "kind": "result", "data": {"text/plain": "2"}} | {
    "metadata": {},
    "display_id": "",
}
DONE = {"op": "done", "id": "1", "nonce": "n", "status": "error", "exit_code": None, "count": 1, "threads": 0} | {
    "error": {"name": "E", "value": "v", "traceback": ["a", "b"]},
    "notes": ["note"],
    "broken": False,
}
MESSAGES: dict[str, tuple[dict[str, Any], wire.FromGuest]] = {
    "ready": ({"op": "ready", "python": "3.11.2", "pid": 7}, wire.Ready("3.11.2", 7)),
    "shown": (SHOWN, wire.Shown("1", "n", "result", {"text/plain": "2"}, {}, "")),
    "cleared": ({"op": "cleared", "id": "1", "nonce": "n", "wait": True}, wire.Cleared("1", "n", True)),
    "done": (
        DONE,
        wire.Done("1", "n", "error", wire.Raised("E", "v", ("a", "b")), None, 1, 0, ("note",), False),
    ),
    "copied": ({"op": "copied", "id": "1", "nonce": "n", "refusal": ""}, wire.Copied("1", "n", "")),
    "named": ({"op": "named", "id": "1", "nonce": "n", "names": [["a", "int"]]}, wire.Named("1", "n", (("a", "int"),))),
    "saved": (
        {"op": "saved", "id": "1", "nonce": "n", "names": ["a"], "lost": [["b", "why"]]},
        wire.Kept("1", "n", "saved", ("a",), (wire.Lost("b", "why"),)),
    ),
    "calmed": ({"op": "calmed", "id": "1", "nonce": "n"}, wire.Calmed("1", "n")),
    "forgotten": ({"op": "forgotten", "id": "1", "nonce": "n"}, wire.Forgotten("1", "n")),
}


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize("name", MESSAGES)
def test_what_the_guest_encodes_the_runner_understands(name: str) -> None:
    message, value = MESSAGES[name]
    assert wire.parse(encode(message)) == value


@pytest.mark.parametrize("name", MESSAGES)
def test_a_frame_without_one_of_its_members_is_malformed(name: str) -> None:
    message, _value = MESSAGES[name]
    for member in message.keys() - {"error", "exit_code"}:
        with pytest.raises(wire.MalformedFrame):
            wire.parse(encode({key: value for key, value in message.items() if key != member}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b"\xff\xfe",
        b'{"op": "run"}',
        b'{"op": 5}',
        b'{"op": "ready", "python": "3", "pid": true}',
        b'{"op": "ready", "python": "3", "pid": 1e3}',
        b'{"op": "ready", "python": "3", "pid": 9007199254740993}',
        b"[" * 100_000,
        b'{"op": "named", "id": "1", "nonce": "n", "names": [["a"]]}',
        encode(SHOWN | {"data": {}}),
        encode(SHOWN | {"data": {"text/plain": 5}}),
        encode(SHOWN | {"data": {"text/plain": "", "text/html": []}}),
        encode(SHOWN | {"kind": "other"}),
        encode(DONE | {"error": "text"}),
        encode(DONE | {"exit_code": "3"}),
        encode(DONE | {"notes": [1]}),
        b'{"op": "shown", "metadata": {"x": NaN}}',
        b'{"op": "ready", "python": "3", "pid": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_malformed_frame_is_refused(body: bytes) -> None:
    with pytest.raises(wire.MalformedFrame):
        wire.parse(body)


def test_text_comes_out_as_valid_unicode() -> None:
    shown = wire.parse(encode(SHOWN | {"data": {"text/plain": "a\ud800b", "x/json": {"k\udfff": ["\ud801", "ü😀"]}}}))
    assert isinstance(shown, wire.Shown)
    assert shown.data == {"text/plain": "a?b", "x/json": {"k?": ["?", "ü😀"]}}


def test_a_frame_larger_than_allowed_is_refused_by_its_length() -> None:
    with pytest.raises(wire.MalformedFrame, match="larger than"):
        list(wire.Frames().feed((wire.FROM_GUEST + 1).to_bytes(4, "little")))


def test_a_request_larger_than_allowed_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="larger than"):
        wire.request("run", "1", "n", code="x" * wire.TO_GUEST, context="")


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_bodies_come_out_as_they_went_in_however_they_are_cut(bodies: list[bytes], step: int) -> None:
    stream = b"".join(_frame(body) for body in bodies)
    frames = wire.Frames()
    got = [body for at in range(0, len(stream), step) for body in frames.feed(stream[at : at + step])]
    assert got == bodies
    assert not frames.partial


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_members = st.sampled_from(sorted({key for message, _ in MESSAGES.values() for key in message}))


@given(st.sampled_from(sorted(MESSAGES)), st.dictionaries(_members, _json, max_size=4), st.binary(max_size=40))
@settings(max_examples=500, deadline=None)
def test_no_frame_makes_the_parser_fail_in_another_way(name: str, changes: dict[str, Any], noise: bytes) -> None:
    for body in (json.dumps(MESSAGES[name][0] | changes).encode(), noise, encode(MESSAGES[name][0])[:-1] + noise):
        try:
            value = wire.parse(body)
        except wire.MalformedFrame:
            continue
        str(value).encode()
