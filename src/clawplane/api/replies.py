"""Write answers: every success is an envelope, everything else is a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from clawplane.api.calls import Call


def success(call: Call, data: Any, *, status: int = 200) -> Response:
    """Return `data` in the envelope."""
    body = {"code": 0, "message": "success", "request_id": call.request_id, "data": data}
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


def done(call: Call) -> Response:
    """Return the envelope without data."""
    body = {"code": 0, "message": "success", "request_id": call.request_id}
    return Response(msgspec.json.encode(body), media_type="application/json")


def stream(
    call: Call, chunks: AsyncIterator[bytes], *, media_type: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a body that is made while it is sent; for HEAD only its headers."""
    if call.request.method == "HEAD":
        return Response(media_type=media_type, headers=headers)
    return ClosingStream(chunks, media_type=media_type, headers=headers)


class ClosingStream(StreamingResponse):
    """A stream whose source is closed with it, also when the client leaves: no listener, no cursor stays behind."""

    def __init__(self, chunks: AsyncIterator[bytes], *, media_type: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._chunks = chunks

    async def stream_response(self, send: Send) -> None:
        """Send the chunks."""
        try:
            await super().stream_response(send)
        finally:
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()
