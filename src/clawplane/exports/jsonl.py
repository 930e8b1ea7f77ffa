"""Write rows as JSON lines: one value per line, without anything around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from clawplane.exports.selection import RowLines


class JsonlEncoder:
    """One JSON value per line."""

    media_type: ClassVar[str] = "application/x-ndjson"
    suffix: ClassVar[str] = "jsonl"

    def __init__(self, columns: Iterable[str] | None) -> None:
        self._rows = RowLines(columns)

    def begin(self) -> bytes:
        """Return what stands before the first row."""
        return b""

    def encode(self, batch: Sequence[bytes]) -> bytes:
        """Return the rows of a batch (each the JSON text of one row)."""
        return b"\n".join([*self._rows.of(batch), b""]) if batch else b""

    def end(self) -> bytes:
        """Return what stands behind the last row."""
        return b""
