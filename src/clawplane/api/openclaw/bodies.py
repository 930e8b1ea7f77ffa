"""Read a request's body: strict JSON of at most 5 MiB, whatever it says of its size and however it is packed.

Who is refused before the body was read (no token, too large) gets the answer at once; what still comes is thrown away
for a moment, because a connection that is closed with bytes under way is reset, and the answer is lost with it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.types import Receive

from clawplane.domain.errors import ClawplaneError, InvalidArgument, TooLarge
from clawplane.domain.json_text import exceeds_depth

MAX_BODY: Final = 5 << 20
BODY_SECONDS: Final = 60.0
SWALLOWED: Final = 64 << 10
"""A body of this size that nobody reads may pass by without costing its connection."""

_MAX_DEPTH: Final = 100
_LINGER_BYTES: Final = 8 << 20
_LINGER_SECONDS: Final = 2.0
_WRAPPINGS: Final = {b"gzip": 31, b"deflate": 15}
_CHARSET: Final = re.compile(rb';\s*charset\s*=\s*(?:"([^"]*)"|([^\s;]*))', re.IGNORECASE)
_EXACT: Final = 1 << 53
_JSON_SPACE: Final = " \t\r\n"


class UnsupportedMedia(ClawplaneError):
    """A body in a charset or packing that is not understood."""

    code = "unsupported_media"


class Hung(Exception):
    """The client hung up before its request was whole."""


class BadJson(InvalidArgument):
    """A body that is no JSON object or array."""

    def __init__(self) -> None:
        super().__init__("Invalid JSON body")


async def read_json(
    headers: Mapping[bytes, bytes],
    receive: Receive,
    taken: Callable[[], None] | None = None,
    *,
    whole: bool = False,
) -> dict[str, Any]:
    """Return the members of the body; without the media type of JSON, or as an array, it counts as having none.

    `taken` is called once nothing of the body is left to come; `whole` says that it is all here, so that nothing is
    waited for. Raises BadJson, TooLarge, UnsupportedMedia, or Hung.
    """
    kind = headers.get(b"content-type", b"")
    if kind != b"application/json":
        media, _, _ = kind.partition(b";")
        if media.strip().lower() != b"application/json":
            return {}
    charset = _charset(kind)
    packing = headers.get(b"content-encoding", b"identity").strip().lower()
    if packing != b"identity" and packing not in _WRAPPINGS:
        raise UnsupportedMedia(f"unsupported content encoding {packing.decode('latin-1')[:40]!r}")
    length = headers.get(b"content-length")
    if packing == b"identity" and length is not None and length.isdigit() and int(length) > MAX_BODY:
        raise _too_large()
    data = await (_read(receive) if whole else _read_in_time(receive))
    if taken is not None:
        taken()
    if packing != b"identity" and data:
        data = _unpacked(data, _WRAPPINGS[packing])
    return parsed(data, charset)


def parsed(data: bytes, charset: str = "utf-8") -> dict[str, Any]:
    """Return the members of a JSON text; raises BadJson. No text at all is an object without members."""
    if not data:
        return {}
    try:
        text = data.decode(charset)
    except (UnicodeDecodeError, LookupError):
        raise BadJson from None
    text = text.removeprefix("\ufeff").strip(_JSON_SPACE)
    if text[:1] not in ("{", "[") or exceeds_depth(data if charset == "utf-8" else text.encode(), _MAX_DEPTH):
        raise BadJson
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_number)
    except (ValueError, RecursionError):
        raise BadJson from None
    return value if isinstance(value, dict) else {}


def _charset(kind: bytes) -> str:
    found = None if b";" not in kind else _CHARSET.search(kind)
    if found is None:
        return "utf-8"
    name = (found[1] or found[2] or b"").decode("latin-1").lower()
    if not name.startswith("utf-"):
        raise UnsupportedMedia(f"unsupported charset {name[:40]!r}")
    return name


async def _read_in_time(receive: Receive) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read(receive)
    except TimeoutError:
        raise InvalidArgument(f"The request body did not end within {BODY_SECONDS:g} s.") from None


async def _read(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Hung
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > MAX_BODY:
            raise _too_large()
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _unpacked(data: bytes, wrapping: int) -> bytes:
    """Return what a packed body holds, never more than the limit of it in memory."""
    unpacked = b""
    try:
        while data:
            stream = zlib.decompressobj(wrapping)
            unpacked += stream.decompress(data, MAX_BODY + 1 - len(unpacked))
            if len(unpacked) > MAX_BODY:
                raise _too_large()
            if not stream.eof:
                raise BadJson
            data = stream.unused_data
    except zlib.error:
        raise BadJson from None
    return unpacked


async def linger(receive: Receive) -> None:
    """Throw away what still comes of a refused body, so that the client lives to read why."""
    size = 0
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while size < _LINGER_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return


def _too_large() -> TooLarge:
    return TooLarge("The request body is larger than 5 MiB")


def _refuse(name: str) -> object:
    raise ValueError(name)


def _number(text: str) -> float:
    """Return a number as JavaScript writes it again: 1.0 is 1."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(text[:40])
    return int(value) if value.is_integer() and abs(value) < _EXACT else value
