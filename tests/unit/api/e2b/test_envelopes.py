"""The framing of streams, whatever bytes come."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawplane.api.e2b.envelopes import end, envelope, only_message
from clawplane.domain.errors import InvalidArgument


@given(st.binary(max_size=64))
def test_any_bytes_are_one_whole_message_or_refused(data: bytes) -> None:
    try:
        message = only_message(data)
    except InvalidArgument:
        return
    assert data == b"\0" + len(message).to_bytes(4, "big") + message


@given(st.dictionaries(st.text(), st.text()))
def test_a_message_survives_its_envelope(message: dict[str, str]) -> None:
    assert json.loads(only_message(envelope(message))) == message


@pytest.mark.parametrize("cut", range(7))
def test_a_request_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(InvalidArgument):
        only_message(envelope({"a": 1})[:cut])


def test_the_end_of_a_stream_is_no_message_and_says_what_failed() -> None:
    assert end() == b"\2\0\0\0\2{}"
    assert json.loads(end("not_found", "gone")[5:]) == {"error": {"code": "not_found", "message": "gone"}}
    with pytest.raises(InvalidArgument):
        only_message(end())
