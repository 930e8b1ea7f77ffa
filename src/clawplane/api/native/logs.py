"""Stream logs as NDJSON, or as server-sent events for those who accept them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import msgspec
from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.native import shapes
from clawplane.domain.batches import StoredLogLine
from clawplane.flows.results import Ended

NDJSON: Final = "application/x-ndjson"
SSE: Final = "text/event-stream"
_MAX_SEQ: Final = 2**53

_Pages = AsyncGenerator[list[StoredLogLine], None]


def wants_events(call: Call) -> bool:
    """Tell whether the client asked for server-sent events."""
    return SSE in call.request.headers.get("accept", "")


def log_stream(call: Call, subject: str, ended: Ended, *, closes: bool) -> Response:
    """Return a log behind `after`; with `follow` it goes on until `ended`. SSE clients resume by Last-Event-ID."""
    after = call.number("after", 0, low=0, high=_MAX_SEQ) or 0
    events = wants_events(call)
    resumed = call.request.headers.get("last-event-id", "")
    if events and resumed.isascii() and resumed.isdecimal() and len(resumed) < 17:
        after = max(after, int(resumed))
    results = call.flows.results
    lines = (
        results.follow_log(subject, after, ended, closes=closes)
        if call.flag("follow")
        else _to_the_end(call, subject, after)
    )
    encoded = _events(lines) if events else _ndjson(lines)
    return replies.stream(call, encoded, media_type=SSE if events else NDJSON, headers={"Cache-Control": "no-store"})


async def _to_the_end(call: Call, subject: str, seq: int) -> _Pages:
    while lines := await call.flows.results.log_after(subject, seq):
        seq = lines[-1].seq
        yield lines


async def _ndjson(pages: _Pages) -> AsyncIterator[bytes]:
    async with aclosing(pages):
        async for lines in pages:
            # an empty page is a sign of life: a blank line, which readers of NDJSON skip
            yield b"".join(msgspec.json.encode(shapes.log_line(line)) + b"\n" for line in lines) or b"\n"


async def _events(pages: _Pages) -> AsyncIterator[bytes]:
    async with aclosing(pages):
        async for lines in pages:
            yield b"".join(map(_event, lines)) or b": alive\n\n"
    yield b"event: end\ndata: {}\n\n"


def _event(line: StoredLogLine) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (line.seq, msgspec.json.encode(shapes.log_line(line)))
