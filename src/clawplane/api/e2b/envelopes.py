"""The framing of streams in the Connect protocol: a byte of flags, four bytes of length, a JSON message. No I/O.

A request to a streaming method is one envelope; its answer is a series of them, and a last one with the flag 2 that
holds `{}` or the error. Compression (flag 1) is not negotiated and therefore refused.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from clawplane.domain.errors import InvalidArgument

MEDIA_TYPE: Final = "application/connect+json"

_COMPRESSED: Final = 1
_END: Final = 2
_PREFIX: Final = struct.Struct(">BI")


def envelope(message: Any) -> bytes:
    """Return one message of a stream."""
    data = msgspec.json.encode(message)
    return _PREFIX.pack(0, len(data)) + data


def end(code: str = "", message: str = "") -> bytes:
    """Return the end of a stream; with a code it is an error."""
    data = msgspec.json.encode({"error": {"code": code, "message": message}} if code else {})
    return _PREFIX.pack(_END, len(data)) + data


def only_message(body: bytes) -> bytes:
    """Return the message of a request that is one envelope; raises InvalidArgument."""
    if len(body) < _PREFIX.size:
        raise InvalidArgument("The request ends within an envelope's head.")
    flags, length = _PREFIX.unpack_from(body)
    if flags & _COMPRESSED:
        raise InvalidArgument("The request is compressed.", hint="Send it as it is.")
    if flags or length != len(body) - _PREFIX.size:
        raise InvalidArgument("The request is not exactly one envelope.")
    return body[_PREFIX.size :]
