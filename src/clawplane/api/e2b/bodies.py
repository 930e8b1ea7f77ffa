"""Read JSON bodies."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.json_text import exceeds_depth

T = TypeVar("T")

_MAX_DEPTH: Final = 64


def decoded(data: bytes, type_: type[T]) -> T:
    """Return a JSON body as `type_`; an empty one is an empty object. Raises InvalidArgument."""
    if exceeds_depth(data, _MAX_DEPTH):
        raise InvalidArgument(f"The request body nests deeper than {_MAX_DEPTH} levels.", hint="Flatten it.")
    try:
        return msgspec.json.decode(data or b"{}", type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"The request body does not fit: {error}") from None
