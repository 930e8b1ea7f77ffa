"""Write rows as CSV (RFC 4180): UTF-8 with a byte order mark, a header of the keys, nested values as compact JSON.

Three ways through, fastest first; each batch takes the first that can read it:

1. selected values that are text, numbers or null: decoded into structs, written without a line of Python per row;
2. booleans or nested values: column by column, so that only those columns are touched;
3. a batch with text that a spreadsheet might run: one expression per row;
4. rows that are no objects, or that no struct can read: the standard library, row by row.

After a batch failed the first way, later batches start with the second: columns keep their types.

Text that a spreadsheet would execute is written with a leading apostrophe, which spreadsheets hide: what begins with
`=`, a tab or a carriage return, and what begins with `+`, `-` or `@` and calls a function or names another program.
Telephone numbers, signed numbers and @names therefore stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from clawplane.exports.selection import Number, as_array, compact, parse_row, row_struct, selected

VALUE_COLUMN = "value"
"""Where a row that is no object goes; without such a column it goes into the first."""

_ARMED = (b'"=', b'"+', b'"-', b'"@', b'"\\')
_ALWAYS = ("=", "\t", "\r")
_PERHAPS = ("+", "-", "@")
_SUSPECT = frozenset(_ALWAYS + _PERHAPS)
_CALL = re.compile(r"[^\W\d][\w.]{0,40}\s{0,9}\(|\|")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SIMPLE = frozenset({int, float, type(None)})
_UNCHANGED = _SIMPLE | {str}
_BOOLEANS: dict[object, str] = {True: "true", False: "false"}
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)


class CsvEncoder:
    """Rows under a header of keys; `columns` must be given, as no later row can add one."""

    media_type: ClassVar[str] = "text/csv; charset=utf-8"
    suffix: ClassVar[str] = "csv"

    def __init__(self, columns: Iterable[str] | None) -> None:
        chosen = selected(columns)
        if chosen is None:
            raise ValueError("a CSV export needs its columns before its first row")
        self._columns = chosen
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer, lineterminator="\r\n")
        plain = row_struct(chosen, str | int | float | None, None)
        loose = row_struct(chosen, Any, None)
        self._plain = None if plain is None else msgspec.json.Decoder(list[plain])  # type: ignore[valid-type]
        self._loose = None if loose is None else msgspec.json.Decoder(list[loose])  # type: ignore[valid-type]

    def begin(self) -> bytes:
        """Return the byte order mark and the header."""
        if self._columns:
            self._writer.writerow([disarmed(key) for key in self._columns])
        return b"\xef\xbb\xbf" + self._taken()

    def encode(self, batch: Sequence[bytes]) -> bytes:
        """Return the rows of a batch (each the JSON text of one row)."""
        if not batch or not self._columns:
            return b""
        try:
            self._write(as_array(batch))
        except _UNREADABLE:
            self._taken()  # rows written before the failure are written again
            self._writer.writerows(map(self._slow_row, batch))
        return self._taken()

    def end(self) -> bytes:
        """Return what stands behind the last row."""
        return b""

    def _write(self, text: bytes) -> None:
        if self._loose is None:
            raise ValueError("these columns need the slow way")
        if any(mark in text for mark in _ARMED):
            self._writer.writerows(map(_cells, map(msgspec.structs.astuple, self._loose.decode(text))))
            return
        if self._plain is not None:
            try:
                rows = self._plain.decode(text)
            except msgspec.ValidationError:
                self._plain = None
            else:
                self._writer.writerows(map(msgspec.structs.astuple, rows))
                return
        columns = zip(*map(msgspec.structs.astuple, self._loose.decode(text)), strict=True)
        self._writer.writerows(zip(*map(_column, columns), strict=True))

    def _slow_row(self, raw: bytes) -> list[object]:
        value = parse_row(raw)
        if not isinstance(value, dict):
            at = self._columns.index(VALUE_COLUMN) if VALUE_COLUMN in self._columns else 0
            return [_cell(value) if index == at else None for index in range(len(self._columns))]
        return [_cell(value.get(key)) for key in self._columns]

    def _taken(self) -> bytes:
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        try:
            return text.encode()
        except UnicodeEncodeError:
            return _SURROGATE.sub("\ufffd", text).encode()


def _column(values: tuple[object, ...]) -> Iterable[object]:
    """Return one column of a batch in which no text is armed, with only what needs it changed."""
    kinds = set(map(type, values))
    if kinds <= _UNCHANGED:
        return values
    if kinds == {bool}:
        return map(_BOOLEANS.__getitem__, values)
    return [value if type(value) in _UNCHANGED else _text(value) for value in values]


def _cells(values: Iterable[object]) -> list[object]:
    return [value if type(value) in _SIMPLE else _text(value) for value in values]


def _text(value: object) -> str:
    """Return the text of a value that msgspec decoded, hence can encode."""
    if isinstance(value, str):
        return value if value[:1] not in _SUSPECT else disarmed(value)
    return disarmed(msgspec.json.encode(value).decode())


def _cell(value: object) -> object:
    if isinstance(value, Number) or type(value) in _SIMPLE:
        return value
    return disarmed(value if isinstance(value, str) else compact(value))


def disarmed(text: str) -> str:
    """Return text that a spreadsheet shows and does not execute; see the module's last paragraph."""
    if text.startswith(_ALWAYS) or (text.startswith(_PERHAPS) and _CALL.search(text)):
        return f"'{text}"
    return text
