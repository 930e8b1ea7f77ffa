"""Exports: the layouts of the contract, and the fast ways agree with the slow one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawplane import exports

ROWS = [b'{"id": 1, "t": "a, \\"b\\"", "n": [1, {"x": null}]}', b'{"t": "\xc3\xa4", "id": 2, "ok": true}']


def whole(name: str, rows: Sequence[bytes], columns: Sequence[str] | None) -> bytes:
    encoder = exports.encoder(name, columns)
    return encoder.begin() + encoder.encode(rows) + encoder.end()


def table(data: bytes) -> list[list[str]]:
    assert data.startswith(b"\xef\xbb\xbf")
    return [*csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))]


def test_csv_has_a_byte_order_mark_a_header_of_keys_and_quoting() -> None:
    assert whole("csv", ROWS, ["id", "t", "n", "ok", "absent"]) == (
        b'\xef\xbb\xbfid,t,n,ok,absent\r\n1,"a, ""b""","[1,{""x"":null}]",,\r\n2,\xc3\xa4,,true,\r\n'
    )


def test_json_is_an_array_with_the_selected_keys() -> None:
    assert json.loads(whole("json", ROWS, None)) == [json.loads(row) for row in ROWS]
    assert json.loads(whole("json", ROWS, ["t", "id"])) == [{"t": 'a, "b"', "id": 1}, {"t": "\u00e4", "id": 2}]
    assert json.loads(whole("json", [], ["t"])) == []


def test_jsonl_passes_rows_through_and_selects_keys() -> None:
    assert whole("jsonl", ROWS, None) == ROWS[0] + b"\n" + ROWS[1] + b"\n"
    assert whole("jsonl", ROWS, ["n"]) == b'{"n":[1, {"x": null}]}\n{}\n'
    assert whole("jsonl", [b'{\n"a":1}'], None) == b'{"a":1}\n'


@pytest.mark.parametrize("columns", [None, ["a", "__coreclaw_data_id__"]])
@pytest.mark.parametrize("key", ["__coreclaw_data_id__", "\\u005f_coreclaw_data_id__", "__coreclaw_data\\u005Fid__"])
@pytest.mark.parametrize("name", ["csv", "json", "jsonl"])
def test_the_platform_key_is_never_exported(name: str, key: str, columns: list[str] | None) -> None:
    data = whole(name, [b'{"a":1,"%s":"record_1"}' % key.encode()], columns or (["a"] if name == "csv" else None))
    assert b"record_1" not in data
    assert b"coreclaw" not in data


def test_a_row_that_is_no_object_stays_as_it_is_or_goes_into_the_value_column() -> None:
    rows = [b"[1,2]", b'{"a":1}', b'"text"', b"null"]
    assert whole("jsonl", rows, ["a"]) == b'[1,2]\n{"a":1}\n"text"\nnull\n'
    assert json.loads(whole("json", rows, ["a"])) == [[1, 2], {"a": 1}, "text", None]
    assert table(whole("csv", rows, ["a", "value"])) == [
        ["a", "value"],
        ["", "[1,2]"],
        ["1", ""],
        ["", "text"],
        ["", ""],
    ]


@pytest.mark.parametrize("name", ["csv", "json", "jsonl"])
@pytest.mark.parametrize(
    "row",
    [
        b'{"a":"\\ud800"}',
        b'{"a":"\\u0000"}',
        b'{"a":%s}' % (b"9" * 5000),
        b'{"a":[%s]}' % (b"9" * 5000),
        b'{"a":1e999}',
        b'{"a":%s1%s}' % (b"[" * 3000, b"]" * 3000),
        b'{"a":"\xff"}',
        b"no json",
        b"",
    ],
)
@pytest.mark.parametrize("columns", [["a"], ["b", "a"], ['q"uote', "a"]])
def test_odd_rows_crash_nothing_and_spoil_no_neighbour(name: str, row: bytes, columns: list[str]) -> None:
    data = whole(name, [b'{"a":"left"}', row, b'{"a":"right"}'], columns)
    assert b"left" in data
    assert b"right" in data
    data.decode()


def test_numbers_keep_their_digits() -> None:
    row = b'{"big":%s,"exact":1e999,"a":9007199254740993}' % (b"7" * 5000)
    columns = ["big", "exact", "a"]
    assert table(whole("csv", [row], columns))[1] == ["7" * 5000, "1e999", "9007199254740993"]
    assert whole("jsonl", [row], columns) == row + b"\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+SUM(1)", "'+SUM(1)"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ('@HYPERLINK("http://x")', '\'@HYPERLINK("http://x")'),
        ("\t=1", "'\t=1"),
        ("+49 (30) 123-4", "+49 (30) 123-4"),
        ("-5.5", "-5.5"),
        ("@name", "@name"),
        ("a=b", "a=b"),
    ],
)
def test_text_that_a_spreadsheet_would_run_is_disarmed(text: str, shown: str) -> None:
    rows = [json.dumps({"a": text}).encode(), json.dumps({"a": True}).encode()]
    assert table(whole("csv", rows, ["a"]))[1] == [shown]
    assert table(whole("csv", [*rows, b"[]"], ["a"]))[1] == [shown]
    assert table(whole("csv", [], [text]))[0] == [shown]
    assert json.loads(whole("json", rows, ["a"]))[0] == {"a": text}


def test_csv_needs_its_columns_and_knows_nothing_of_other_formats() -> None:
    with pytest.raises(ValueError, match="columns"):
        exports.encoder("csv", None)
    with pytest.raises(KeyError):
        exports.encoder("pdf", [])
    assert whole("csv", ROWS, []) == b"\xef\xbb\xbf"


def test_a_batch_keeps_its_rows_when_the_fast_way_fails_half_way() -> None:
    encoder = exports.encoder("csv", ["a"])
    assert encoder.encode([b'{"a":"x"}', b'{"a":[1]}']) == b"x\r\n[1]\r\n"
    assert encoder.encode([b'{"a":"y"}', b'{"a":%s}' % (b"1" * 4299), b"[]"]) == b"y\r\n%s\r\n[]\r\n" % (b"1" * 4299)


async def test_streams_in_bounded_pieces_and_ends_with_its_consumer() -> None:
    produced = 0

    async def batches() -> AsyncIterator[list[bytes]]:
        nonlocal produced
        for _ in range(10_000):
            produced += 1
            yield [b'{"a":"%s"}' % (b"x" * 200)] * 2500

    sizes = []
    stream = exports.export("csv", batches(), ["a"])
    async for piece in stream:
        sizes.append(len(piece))
        if len(sizes) == 8:
            break
    assert produced == 3
    assert max(sizes) < 250_000


async def test_a_run_of_very_many_columns_is_written_in_smaller_pieces() -> None:
    columns = [f"c{number}" for number in range(30_000)]

    async def batches() -> AsyncIterator[list[bytes]]:
        yield [b'{"c1":1}'] * 20

    pieces = [piece async for piece in exports.export("csv", batches(), columns)]
    assert max(map(len, pieces[1:])) < 100_000
    assert b"".join(pieces[1:]).count(b"\r\n") == 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "c", "\u00fc", 'q"']), JSON, max_size=5)


@given(st.lists(OBJECTS | JSON, max_size=5), st.lists(st.sampled_from(["a", "b", "\u00fc"]), min_size=1, unique=True))
def test_all_ways_agree(rows: list[Any], columns: list[str]) -> None:
    raw = [json.dumps(row).encode() for row in rows]
    kept = [{key: row[key] for key in columns if key in row} if isinstance(row, dict) else row for row in rows]
    assert json.loads(whole("json", raw, columns)) == kept
    assert [json.loads(line) for line in whole("jsonl", raw, columns).splitlines()] == kept
    # an impossible column name forces the slow way, the others may take any
    slow = [line[:-1] for line in table(whole("csv", raw, [*columns, "\\"]))]
    fast = table(whole("csv", raw, columns))
    assert [[_number(cell) for cell in line] for line in fast] == [[_number(cell) for cell in line] for line in slow]


def _number(cell: str) -> object:
    try:
        return json.loads(cell)
    except ValueError:
        return cell
