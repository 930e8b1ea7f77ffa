"""What ports.Blobs promises."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.errors import InvalidArgument, NotFound


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(bench: Any, key: str, **options: Any) -> bytes:
    return b"".join([part async for part in bench.store.blobs.read(key, **options)])


async def test_a_blob_is_read_back_as_it_was_put(bench: Any) -> None:
    parts = [os.urandom(1000) for _ in range(5)]
    assert await bench.store.blobs.put("packages/ab-1.zip", chunks(*parts, b"")) == 5000
    assert await bench.store.blobs.size("packages/ab-1.zip") == 5000
    assert await content(bench, "packages/ab-1.zip") == b"".join(parts)


async def test_a_blob_is_read_in_chunks_of_the_asked_size(bench: Any) -> None:
    await bench.store.blobs.put("k", chunks(b"x" * 250))
    assert [len(part) async for part in bench.store.blobs.read("k", chunk=100)] == [100, 100, 50]


async def test_an_empty_blob_is_a_blob(bench: Any) -> None:
    assert await bench.store.blobs.put("empty", chunks()) == 0
    assert await bench.store.blobs.size("empty") == 0
    assert await content(bench, "empty") == b""


async def test_an_unknown_blob_has_no_size_and_cannot_be_read(bench: Any) -> None:
    assert await bench.store.blobs.size("k") is None
    with pytest.raises(NotFound, match="k"):
        await content(bench, "k")


async def test_a_key_that_exists_keeps_its_content(bench: Any) -> None:
    await bench.store.blobs.put("k", chunks(b"first"))
    assert await bench.store.blobs.put("k", chunks(b"second one")) == 5
    assert await content(bench, "k") == b"first"


async def test_of_two_puts_at_once_one_content_is_kept_whole(bench: Any) -> None:
    sizes = await asyncio.gather(*(bench.store.blobs.put("k", chunks(*[letter] * 50)) for letter in (b"aa", b"b")))
    kept = await content(bench, "k")
    assert kept in (b"a" * 100, b"b" * 50)
    assert len(kept) in sizes


async def test_a_deleted_blob_is_gone_and_deleting_again_is_fine(bench: Any) -> None:
    await bench.store.blobs.put("k", chunks(b"x"))
    await bench.store.blobs.delete("k")
    await bench.store.blobs.delete("k")
    assert await bench.store.blobs.size("k") is None


async def test_a_put_that_breaks_off_leaves_nothing(bench: Any, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await bench.store.blobs.put("k", broken())
    assert await bench.store.blobs.size("k") is None
    assert [path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "a/../b", "..", ".", "a/./b", "a//b", "a/", "A", "a b", "a\x00", "é", "a+b", "x" * 201]
)
async def test_a_key_that_we_would_not_make_is_refused(bench: Any, key: str) -> None:
    with pytest.raises(InvalidArgument):
        await bench.store.blobs.put(key, chunks(b"x"))
    with pytest.raises(InvalidArgument):
        await bench.store.blobs.size(key)
    with pytest.raises(InvalidArgument):
        await bench.store.blobs.delete(key)
    with pytest.raises(InvalidArgument):
        await content(bench, key)


async def test_keys_that_look_alike_are_different_blobs(bench: Any) -> None:
    for key in ("a/b", "a-b", "a.b", "ab"):
        await bench.store.blobs.put(key, chunks(key.encode()))
    assert [await content(bench, key) for key in ("a/b", "a-b", "a.b", "ab")] == [b"a/b", b"a-b", b"a.b", b"ab"]
