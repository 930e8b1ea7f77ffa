"""Read rows for an export: which keys, how fast.

Rows come as JSON text in batches. A column selection becomes a struct type with one field per column, so that a whole
batch is decoded by one call which skips every other key without building it. Whatever such a struct cannot express or
read (a key that needs escaping, a row that is no object, a number of five thousand digits) goes row by row through the
standard library's parser. The result is the same either way; the tests hold both against each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

DATA_ID = "__coreclaw_data_id__"
_DATA_ID_BYTES = DATA_ID.encode()
_MOST_STRUCT_FIELDS = 256
_NEEDS_ESCAPE = re.compile('["\\\\\x00-\x1f\ud800-\udfff]')
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_INTEGER = 400
_LARGEST_FLOAT = 1.7e308


class Number(str):
    """A number in its own text, because no float and no bounded integer can hold it."""

    __slots__ = ()


def selected(columns: Iterable[str] | None) -> tuple[str, ...] | None:
    """Return the columns once each, in order, without the platform's key; None stays None (all keys)."""
    return None if columns is None else tuple(key for key in dict.fromkeys(columns) if key != DATA_ID)


def row_struct(columns: Sequence[str], kind: Any, default: object) -> type[msgspec.Struct] | None:
    """Return a struct type that decodes just these keys, or None when no struct can name them."""
    if not columns or len(columns) > _MOST_STRUCT_FIELDS or any(map(_NEEDS_ESCAPE.search, columns)):
        return None
    names = [f"c{index}" for index in range(len(columns))]
    fields = [(name, kind, default) for name in names]
    return msgspec.defstruct("Row", fields, rename=dict(zip(names, columns, strict=True)), omit_defaults=True, gc=False)


def as_array(batch: Sequence[bytes]) -> bytes:
    """Return a batch as the text of one JSON array."""
    return b"[%s]" % b",".join(batch)


def mentions_data_id(text: bytes) -> bool:
    """Tell whether JSON text may hold the platform's key, plainly or in \\u escapes of ASCII letters."""
    return _DATA_ID_BYTES in text or (b"\\u00" in text and re.search(rb"\\u00[567]", text) is not None)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def parse_row(raw: bytes) -> object:
    """Return a row's value; numbers that Python cannot hold stay text, and so does what is no JSON."""
    try:
        return json.loads(raw, parse_int=_integer, parse_float=_float, parse_constant=Number)
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")


def rewrite_row(raw: bytes, columns: Sequence[str] | None) -> bytes:
    """Return a row as compact JSON with the selected keys (None = all); what is no object stays what it is."""
    value = parse_row(raw)
    if isinstance(value, dict):
        keys = value if columns is None else columns
        value = {key: value[key] for key in keys if key in value and key != DATA_ID}
    return compact(value).encode()


def compact(value: object) -> str:
    """Return compact JSON; non-ASCII stays as it is, lone surrogates become escapes."""
    try:
        return _write(value)
    except RecursionError:
        return '"nested too deep to be written"'


def _integer(text: str) -> int | Number:
    return int(text) if len(text) < _LONGEST_INTEGER else Number(text)


def _float(text: str) -> float | Number:
    value = float(text)
    return value if -_LARGEST_FLOAT < value < _LARGEST_FLOAT else Number(text)


def _write(value: object) -> str:
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        members = ",".join(f"{_quoted(key)}:{_write(item)}" for key, item in value.items())
        return f"{{{members}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_write, value))}]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=_SURROGATE.search(text) is not None)


class RowLines:
    """Turn batches into one line of JSON per row, with the selected keys (None = all).

    Without a selection the rows' own bytes are passed on; with one, values keep their own text and only keys change.
    """

    def __init__(self, columns: Iterable[str] | None) -> None:
        self._columns = selected(columns)
        struct = None
        if self._columns is not None:
            struct = row_struct(self._columns, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET)
        self._decode = None if struct is None else msgspec.json.Decoder(list[struct]).decode  # type: ignore[valid-type]

    def of(self, batch: Sequence[bytes]) -> Sequence[bytes]:
        """Return the lines of a batch, without line ends."""
        text = as_array(batch)
        whole = b"\n" not in text and _is_utf8(text)
        if self._columns is None:
            if whole and not mentions_data_id(text):
                return batch
            return [rewrite_row(raw, None) for raw in batch]
        if whole and self._decode is not None:
            try:
                return [*map(msgspec.json.encode, self._decode(text))]
            except (msgspec.MsgspecError, RecursionError):
                pass  # some row is no object or no JSON: each is looked at by itself
        return [rewrite_row(raw, self._columns) for raw in batch]
