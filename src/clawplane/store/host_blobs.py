"""Write down what was asked of a host task, whatever strings and numbers are in it.

JSON may hold lone surrogates and integers of any size; msgpack and SQLite's text hold neither. What fits is kept as
msgpack, the rest as JSON with ASCII escapes, which begins with a brace as no msgpack of an object does. A runner on a
link gets such a task as every program would print it: U+FFFD for half a pair, the nearest float for the number.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from clawplane.domain.host_tasks import HostSpec, Target, Work

_MOST = 1 << 64
_LEAST = -(1 << 63)
_BRACE = b"{"


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The immutable part of a task that nobody searches by."""

    work: Work
    target: Target
    cwd: str | None
    env: dict[str, str]
    labels: dict[str, str]
    answer_at: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode_asked = msgspec.msgpack.Decoder(Asked).decode


def pack_asked(asked: Asked) -> bytes:
    """Return what `unpack_asked` reads."""
    try:
        return _encode(asked)
    except (UnicodeEncodeError, OverflowError):
        return json.dumps(msgspec.to_builtins(asked), ensure_ascii=True).encode()


def unpack_asked(data: bytes) -> Asked:
    """Return what was asked."""
    return msgspec.convert(json.loads(data), Asked) if data.startswith(_BRACE) else _decode_asked(data)


def pack_spec(spec: HostSpec) -> bytes:
    """Return the msgpack that a linked runner is sent."""
    try:
        return _encode(spec)
    except (UnicodeEncodeError, OverflowError):
        return _encode(_printable(msgspec.to_builtins(spec)))


def plain(text: str) -> str:
    """Return text that UTF-8 can say: half surrogate pairs become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain_or_none(text: str | None) -> str | None:
    """Return text that UTF-8 can say, or None for None."""
    return None if text is None else plain(text)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, int) and not _LEAST <= value < _MOST:
        return float(value) if abs(value) < 1 << 1000 else math.copysign(math.inf, -1 if value < 0 else 1)
    if isinstance(value, list | tuple):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(each) for key, each in value.items()}
    return value
