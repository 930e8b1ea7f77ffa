from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest

from clawplane.api.openclaw.bodies import MAX_BODY, BadJson, Hung, UnsupportedMedia, parsed, read_json
from clawplane.domain.errors import TooLarge


class Client:
    """The other end of a request, in pieces; it counts how many were taken."""

    def __init__(self, *pieces: bytes, hangs_up: bool = False) -> None:
        self._pieces = list(pieces)
        self._hangs_up = hangs_up
        self.taken = 0

    async def __call__(self) -> dict[str, Any]:
        self.taken += 1
        if not self._pieces:
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or self._hangs_up}


async def read(data: bytes, kind: str = "application/json", packing: str | None = None) -> dict[str, Any]:
    headers = {b"content-type": kind.encode()} | ({} if packing is None else {b"content-encoding": packing.encode()})
    return await read_json(headers, Client(data))


@pytest.mark.parametrize("kind", ["application/json", "APPLICATION/JSON", 'application/json; charset="UTF-8"; a=b'])
async def test_bodies_of_the_media_type_are_parsed(kind: str) -> None:
    assert await read(b'{"a":1}', kind) == {"a": 1}


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json5", "application/problem+json", "text/json"])
async def test_bodies_of_another_type_count_as_empty(kind: str) -> None:
    assert await read(b'{"a":1}', kind) == {}


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"[1]", b" \r\n\t{}", b"\xef\xbb\xbf{}", b"\xef\xbb\xbf \n[] "])
async def test_objects_and_arrays_are_bodies(text: bytes) -> None:
    assert await read(text) == {}


@pytest.mark.parametrize(
    "text",
    [
        b'"a"',
        b"1",
        b"null",
        b"true",
        b"{",
        b"{a:1}",
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b" ",
        b'{"a":-Infinity}',
        b'{"a":1}{}',
        b'{"a":"\n"}',
        b'{"a":"\xff"}',
        b"[" * 5000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"\x00{}",
    ],
)
async def test_everything_else_is_no_json_body(text: bytes) -> None:
    with pytest.raises(BadJson, match=r"^Invalid JSON body$"):
        await read(text)


async def test_of_duplicate_keys_the_last_wins() -> None:
    assert await read(b'{"a":1,"a":2}') == {"a": 2}


@pytest.mark.parametrize("charset", ["utf-8", "utf-16le", "UTF-16BE", "utf-32-le"])
async def test_charsets_of_unicode_are_understood(charset: str) -> None:
    text = json.dumps({"a": "ü"}, ensure_ascii=False)
    assert await read(text.encode(charset), f"application/json; charset={charset}") == {"a": "ü"}


@pytest.mark.parametrize("charset", ["latin1", "iso-8859-1", "ascii", "utf8"])
async def test_other_charsets_are_refused(charset: str) -> None:
    with pytest.raises(UnsupportedMedia):
        await read(b"{}", f"application/json; charset={charset}")


@pytest.mark.parametrize(
    ("packing", "pack"),
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
async def test_packed_bodies_are_unpacked(packing: str, pack: Any) -> None:
    assert await read(pack(b'{"a":"b"}'), packing=packing) == {"a": "b"}


async def test_a_packed_body_may_have_several_members() -> None:
    assert await read(gzip.compress(b'{"a":') + gzip.compress(b"1}"), packing="gzip") == {"a": 1}


@pytest.mark.parametrize(
    "data", [b"{}", gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"rest"], ids=["plain", "cut", "followed"]
)
async def test_what_is_not_packed_as_it_says_is_no_json_body(data: bytes) -> None:
    with pytest.raises(BadJson):
        await read(data, packing="gzip")


async def test_brotli_is_refused() -> None:
    with pytest.raises(UnsupportedMedia):
        await read(b"{}", packing="br")


async def test_a_body_of_exactly_five_mebibytes_passes_and_one_byte_more_does_not() -> None:
    text = b'{"a":"' + b"x" * (MAX_BODY - 8) + b'"}'
    assert len((await read(text))["a"]) == MAX_BODY - 8
    with pytest.raises(TooLarge):
        await read(text + b" ")


async def test_the_limit_counts_what_was_unpacked() -> None:
    bomb = gzip.compress(b'{"a":"' + b"x" * (MAX_BODY * 20) + b'"}')
    assert len(bomb) < MAX_BODY // 10
    with pytest.raises(TooLarge):
        await read(bomb, packing="gzip")


async def test_an_announced_size_beyond_the_limit_is_refused_unread() -> None:
    client = Client(b"{}")
    headers = {b"content-type": b"application/json", b"content-length": b"%d" % (MAX_BODY + 1)}
    with pytest.raises(TooLarge):
        await read_json(headers, client)
    assert client.taken == 0


async def test_bodies_that_come_in_pieces_are_put_together_and_stopped_at_the_limit() -> None:
    headers = {b"content-type": b"application/json"}
    assert await read_json(headers, Client(b'{"a"', b":", b"1}")) == {"a": 1}
    endless = Client(*[b"[" * 65536] * 200)
    with pytest.raises(TooLarge):
        await read_json(headers, endless)
    assert endless.taken == MAX_BODY // 65536 + 1


async def test_a_client_that_hangs_up_in_the_middle_has_said_nothing() -> None:
    with pytest.raises(Hung):
        await read_json({b"content-type": b"application/json"}, Client(b'{"a"', hangs_up=True))


def test_emoji_in_escapes_are_joined_and_lone_surrogates_stay() -> None:
    assert parsed(rb'{"a":"\ud83d\ude00","b":"\ud83d"}') == {"a": "\U0001f600", "b": "\ud83d"}
