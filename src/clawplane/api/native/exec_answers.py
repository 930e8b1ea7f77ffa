"""Answer an exec: in one piece, as server-sent events, or as NDJSON; and notice a client that leaves.

A client that leaves ends its exec, unless it is detached (flows/execs.py). A stream ends with `end`, which carries the
same result as the answer in one piece, or with `error`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final, Literal

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from clawplane.api.calls import Call
from clawplane.api.errors import plain_body
from clawplane.api.native import session_shapes as shapes
from clawplane.api.native.logs import NDJSON, SSE
from clawplane.domain.errors import ClawplaneError
from clawplane.domain.sessions import ExecEvent, ExecRequest, ExecResult
from clawplane.flows.execs import Execution

StreamKind = Literal["none", "sse", "ndjson"]

ALIVE_SECONDS: Final = 15.0
_UNWATCHED_SECONDS: Final = 0.05


def json_reply(body: object, *, status: int = 200) -> Response:
    """Return a body as it is."""
    return Response(shapes.encode(body), status_code=status, media_type="application/json")


def stream_kind(call: Call, wanted: str) -> StreamKind:
    """Return how to answer: as `stream` says, else as Accept says."""
    accept = call.request.headers.get("accept", "")
    if wanted == "sse" or (not wanted and SSE in accept):
        return "sse"
    return "ndjson" if wanted == "ndjson" or (not wanted and NDJSON in accept) else "none"


async def answer_exec(call: Call, session_id: str | None, request: ExecRequest, kind: StreamKind) -> Response:
    """Execute and answer."""
    run = await call.flows.sessions.prepare(call.caller, session_id, request, quiet=kind == "none")
    if kind != "none":
        await run.__aenter__()  # refusals have a status; the stream leaves the exec
        return _ExecStream(call, run, sse=kind == "sse")
    async with run:
        result = await _unless_left(call.request, run)
    return json_reply(shapes.tool_answer(result, run.session, call.flows.clock.now_ms()))


async def _unless_left(request: Request, run: Execution) -> ExecResult:
    """Return the result; raises ClientDisconnect when the client hangs up before it is there.

    Nobody looks out for that in the first moment, in which most execs end.
    """
    try:
        async with asyncio.timeout(_UNWATCHED_SECONDS) as moment:
            return await run.result()
    except TimeoutError:
        if not moment.expired():
            raise
    result = asyncio.ensure_future(run.result())
    left = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait([result, left], return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        for task in (result, left):
            task.cancel()
        await asyncio.gather(result, left, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _ExecStream(StreamingResponse):
    """The events of an exec; whatever ends the response leaves the exec."""

    def __init__(self, call: Call, run: Execution, *, sse: bool) -> None:
        self._run = run
        self._events = _encoded(call, run, sse=sse)
        super().__init__(self._events, media_type=SSE if sse else NDJSON, headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._run.__aexit__(None, None, None)


async def _encoded(call: Call, run: Execution, *, sse: bool) -> AsyncGenerator[bytes, None]:
    encode = _sse if sse else _ndjson
    yield encode("session", {"session_id": run.session.id, "exec_id": run.id})
    try:
        async for event in _paced(run.events()):
            if event is None:
                yield encode("ping", {})
            else:
                yield encode(event.type, {"text": event.text, "data": event.data, "at": event.at})
        answer = shapes.tool_answer(await run.result(), run.session, call.flows.clock.now_ms())
    except ClawplaneError as error:
        yield encode("error", plain_body(error, call.request_id))
    else:
        yield encode("end", {"result": answer})


def _sse(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode({"type": kind} | fields))


def _ndjson(kind: str, fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": kind} | fields) + b"\n"


async def _paced(events: AsyncIterator[ExecEvent]) -> AsyncGenerator[ExecEvent | None, None]:
    """Yield events, and None as a sign of life while none comes."""
    waiting: asyncio.Future[ExecEvent] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait([waiting], timeout=ALIVE_SECONDS)
            if not done:
                yield None
                continue
            finished, waiting = waiting, None
            try:
                event = finished.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _next(events: AsyncIterator[ExecEvent]) -> ExecEvent:
    return await anext(events)
