"""Exports: rows as they are stored go in, a file comes out in pieces. A leaf: it knows nothing of runs or stores.

`export` is the streaming form for a server; `encoder` gives the synchronous parts (`begin`, `encode` per batch, `end`).
Memory is bounded by one slice of a batch, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import MappingProxyType
from typing import ClassVar, Protocol

from clawplane.exports.csv import CsvEncoder
from clawplane.exports.json import JsonEncoder
from clawplane.exports.jsonl import JsonlEncoder

SLICE = 1000
"""Rows encoded at a time: about two milliseconds, so that an event loop is not held up."""

_CELLS = 64_000
"""At most so many cells at a time: a guest may name tens of thousands of columns."""


class Encoder(Protocol):
    """One file being written: `begin`, `encode` for every batch, `end`."""

    media_type: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, columns: Iterable[str] | None) -> None:
        """Select columns, in order; None = all keys (not for csv)."""

    def begin(self) -> bytes:
        """Return what stands before the first row."""

    def encode(self, batch: Sequence[bytes]) -> bytes:
        """Return the rows of a batch (each the JSON text of one row)."""

    def end(self) -> bytes:
        """Return what stands behind the last row."""


FORMATS: MappingProxyType[str, type[Encoder]] = MappingProxyType(
    {"csv": CsvEncoder, "json": JsonEncoder, "jsonl": JsonlEncoder}
)
"""Every format by its name on the wire."""


def encoder(name: str, columns: Iterable[str] | None) -> Encoder:
    """Return an encoder for a format of `FORMATS`.

    Raises KeyError for another name, ValueError for csv without columns.
    """
    return FORMATS[name](columns)


async def export(
    name: str, batches: AsyncIterable[Sequence[bytes]], columns: Iterable[str] | None
) -> AsyncIterator[bytes]:
    """Yield a file of format `name` in pieces, for rows given as JSON text. Raises as `encoder` does."""
    chosen = None if columns is None else tuple(columns)
    writer = encoder(name, chosen)
    rows = max(1, min(SLICE, _CELLS // max(1, len(chosen or ()))))
    yield writer.begin()
    async for batch in batches:
        for start in range(0, len(batch), rows):
            yield writer.encode(batch[start : start + rows])
    yield writer.end()
