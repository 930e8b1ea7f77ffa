"""Write rows as one JSON array, a row per line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from clawplane.exports.selection import RowLines


class JsonEncoder:
    """One JSON array, a row per line."""

    media_type: ClassVar[str] = "application/json"
    suffix: ClassVar[str] = "json"

    def __init__(self, columns: Iterable[str] | None) -> None:
        self._rows = RowLines(columns)
        self._first = True

    def begin(self) -> bytes:
        """Return what stands before the first row."""
        return b"["

    def encode(self, batch: Sequence[bytes]) -> bytes:
        """Return the rows of a batch (each the JSON text of one row)."""
        if not batch:
            return b""
        lead = b"\n" if self._first else b",\n"
        self._first = False
        return lead + b",\n".join(self._rows.of(batch))

    def end(self) -> bytes:
        """Return what stands behind the last row."""
        return b"]\n" if self._first else b"\n]\n"
