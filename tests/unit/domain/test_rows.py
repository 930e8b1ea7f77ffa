"""Pushed rows: ordinary ones are kept as they came, odd ones are never lost."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawplane.domain.rows import MAX_MERGED_BYTES, decode, merge, with_data_id

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


def test_keeps_an_ordinary_row_byte_for_byte() -> None:
    row = decode('{"a": "x & <b>", "n": 9007199254740993}')
    assert (row.body, row.upsert, row.warning) == (b'{"a": "x & <b>", "n": 9007199254740993}', None, None)


def test_keeps_a_row_on_one_line() -> None:
    assert decode('{\n "a": [1,\n 2.50, "x\\ny"]\n}\n').body == b'{"a":[1,2.50,"x\\ny"]}'


def test_decodes_a_doubly_encoded_row_once_more() -> None:
    assert decode(json.dumps(json.dumps({"a": 1}))).body == b'{"a":1}'


def test_keeps_text_that_is_no_json_beside_the_reason() -> None:
    row = decode("not json")
    assert json.loads(row.body) == {"__raw": "not json", "__parse_error": "expecting value (line 1)"}
    assert row.warning is not None


@pytest.mark.parametrize("payload", ["[1,2]", "5", "null", "true", '"text"', '"[1]"'])
def test_stores_a_value_that_is_no_object_as_it_is_with_a_warning(payload: str) -> None:
    row = decode(payload)
    assert row.body == payload.encode()
    assert row.warning is not None
    assert "not an object" in row.warning


def test_takes_the_upsert_members_out_of_the_row() -> None:
    row = decode('{"id":"test-1","n":1,"__coreclaw_upsert_key__":"id","__coreclaw_upsert_value__":"test-1"}')
    assert (row.body, row.upsert) == (b'{"id":"test-1","n":1}', ("id", "test-1"))


def test_sees_upsert_members_written_with_escapes_and_in_doubly_encoded_rows() -> None:
    inner = '{"id":1,"\\u005f_coreclaw_upsert_key__":"id","__coreclaw_upsert_value__":"1"}'
    assert decode(inner).upsert == ("id", "1")
    assert decode(json.dumps(inner)).upsert == ("id", "1")


def test_appends_with_a_warning_when_half_of_an_upsert_is_missing() -> None:
    row = decode('{"id":1,"__coreclaw_upsert_key__":"id"}')
    assert (row.body, row.upsert) == (b'{"id":1}', None)
    assert row.warning is not None


def test_drops_a_forged_data_id() -> None:
    assert decode('{"__coreclaw_data_id__":"record_9","a":1}').body == b'{"a":1}'


def test_keeps_a_megabyte_of_nesting_as_text() -> None:
    row = decode('{"a":' + "[" * 1_000_000)
    assert json.loads(row.body)["__parse_error"] == "it nests deeper than 100 levels"


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_never_raises_and_always_leaves_valid_json(payload: bytes | str) -> None:
    msgspec.json.decode(decode(payload).body)


@given(st.dictionaries(st.text(max_size=8).filter(lambda key: not key.startswith("__")), JSON, max_size=5))
def test_an_object_comes_out_as_it_went_in(row: dict[str, object]) -> None:
    assert json.loads(decode(json.dumps(row)).body) == row


def test_an_update_is_laid_over_the_stored_row() -> None:
    assert merge(b'{"id":1,"a":{"x":1},"n":9007199254740993}', b'{"a":2}') == b'{"id":1,"a":2,"n":9007199254740993}'


def test_many_updates_are_laid_over_in_order_and_what_is_no_object_replaces() -> None:
    assert merge(b'{"a":1}', b'{"b":1}', b'{"a":2}') == b'{"a":2,"b":1}'
    assert merge(b'{"a":1}', b"[1]", b'{"b":1}', b'{"c":1}') == b'{"b":1,"c":1}'
    assert merge(b'{"a":1}', b'{"b":1}', b"[ 1 ]") == b"[ 1 ]"
    assert merge(b'{ "a": 1 }') == b'{ "a": 1 }'


def test_a_large_row_is_read_and_written_once_however_many_updates_it_gets() -> None:
    large = json.dumps({f"k{number}": number for number in range(50_000)}).encode()
    began = time.process_time()
    merge(large, b'{"k1":0}')
    one = time.process_time() - began
    merged = merge(large, *[b'{"k1":%d}' % number for number in range(2_000)])
    assert time.process_time() - began < 20 * one + 0.5
    assert json.loads(merged)["k1"] == 1_999


def test_a_row_that_upserts_make_grow_without_end_is_replaced() -> None:
    piece = "x" * (8 << 20)
    grown = merge(b"{}", *[json.dumps({f"k{number}": piece}).encode() for number in range(20)])
    assert len(grown) <= MAX_MERGED_BYTES
    again = merge(b'{"id":1}', *[json.dumps({"same": piece}).encode() for _ in range(20)])
    assert list(json.loads(again)) == ["id", "same"]


def test_a_listed_row_carries_its_platform_key() -> None:
    assert with_data_id(b'{"a":1}', 3) == b'{"a":1,"__coreclaw_data_id__":"record_3"}'
    assert with_data_id(b"{}", 1) == b'{"__coreclaw_data_id__":"record_1"}'
    assert with_data_id(b"[1]", 1) == b"[1]"
