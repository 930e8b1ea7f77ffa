"""Pack many small values into one stored value: msgpack arrays, cut so that none grows past what a page needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")

MAX_ITEMS = 1000
MAX_BYTES = 256 << 10

pack = msgspec.msgpack.Encoder().encode
unpack_rows = msgspec.msgpack.Decoder(list[bytes]).decode


def cut(items: Sequence[T], sizes: Sequence[int]) -> Iterator[Sequence[T]]:
    """Yield the items in order in groups of at most MAX_ITEMS and MAX_BYTES; a larger item is a group by itself."""
    if len(items) <= MAX_ITEMS and sum(sizes) <= MAX_BYTES:
        if items:
            yield items
        return
    start = size = 0
    for index, item_size in enumerate(sizes):
        if index > start and (index - start == MAX_ITEMS or size + item_size > MAX_BYTES):
            yield items[start:index]
            start, size = index, 0
        size += item_size
    yield items[start:]
