"""Read bodies: as JSON, or as what is in the way of a refusal."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.domain.json_text import JsonError, exceeds_depth, not_finite, patiently

T = TypeVar("T")

_MAX_DEPTH: Final = 64
_MAX_DRAINED: Final = 256 << 10
_DRAIN_SECONDS: Final = 2.0


def decoded(data: bytes, type_: type[T]) -> T:
    """Return a JSON body as `type_`; an empty one is an empty object. Raises InvalidArgument."""
    if exceeds_depth(data, _MAX_DEPTH):
        raise InvalidArgument(f"The request body nests deeper than {_MAX_DEPTH} levels.", hint="Flatten it.")
    try:
        return msgspec.json.decode(data or b"{}", type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(_unsayable(data) or f"The request body does not fit: {error}") from None


def _unsayable(data: bytes) -> str | None:
    try:
        return not_finite(patiently(data))
    except JsonError:
        return None


async def drain(request: Request) -> None:
    """Read what is left of a refused request's body, if it is small and comes soon.

    A connection that is closed with a body under way is reset, and the client may never see why it was refused.
    """
    size = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > _MAX_DRAINED:
                    return
    except (TimeoutError, ClientDisconnect, ClawplaneError, RuntimeError):
        return  # RuntimeError: the body was read to its end
