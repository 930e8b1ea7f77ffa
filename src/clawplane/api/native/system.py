"""How the installation stands: health, metrics, runners, events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call, Handler
from clawplane.api.metrics import CONTENT_TYPE, HostState, Metrics
from clawplane.api.native import shapes
from clawplane.api.native.logs import NDJSON, SSE, wants_events
from clawplane.domain.access import Scope
from clawplane.domain.errors import ClawplaneError, NotFound
from clawplane.domain.events import Event
from clawplane.domain.session_rules import caps_of
from clawplane.flows import channels
from clawplane.flows.access import require

_MAX_EVENTS: Final = 1000
_ALIVE_SECONDS: Final = 15.0


async def health(call: Call) -> Response:
    """Answer 200 when the store answers and a runner can take runs, else 503 with the reason."""
    reason = call.flows.leases.readiness()
    try:
        await call.flows.queue.depth()
    except ClawplaneError as error:
        reason = f"The store does not answer: {error.message}"
    sessions = call.flows.leases.refusal(caps_of(None)) or ""
    body = shapes.Health(ready=reason is None, reason=reason or "", sessions=sessions)
    return Response(
        msgspec.json.encode(body),
        status_code=200 if reason is None else 503,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def metrics_handler(metrics: Metrics) -> Handler:
    """Return the operation that shows `metrics`."""

    async def show(call: Call) -> Response:
        depth = await call.flows.queue.depth()
        told = metrics.render(depth, await call.flows.leases.runners(), await _host_state(call))
        return Response(told, media_type=CONTENT_TYPE)

    return show


async def _host_state(call: Call) -> HostState | None:
    host = call.flows.host
    if host is None:
        return None
    counts, waits = await host.counts(), await host.waits()
    return HostState(counts=counts, waits=waits, parked=host.pollers.parked, now=call.flows.clock.now_ms())


async def list_runners(call: Call) -> Response:
    """Return every runner ever heard of."""
    runners = await call.flows.leases.runners()
    return replies.success(call, shapes.RunnerList([shapes.runner_body(runner) for runner in runners]))


async def list_events(call: Call) -> Response:
    """Return events behind `after`; those of one's own run with `subject`, all of them with the scope `admin`.

    With `follow` they are streamed as NDJSON, or as server-sent events, for as long as the client listens.
    """
    subject = call.text("subject") or None
    after = call.number("after", 0, low=0, high=2**53) or 0
    limit = call.number("limit", 100, low=1, high=_MAX_EVENTS) or 100
    await _check_sight(call, subject)
    if not call.flag("follow"):
        events = await call.flows.events.after(after, subject=subject, limit=limit)
        return replies.success(call, shapes.EventList([_body(event) for event in events]))
    sse = wants_events(call)
    chunks = _follow(call, after, subject, sse=sse)
    return replies.stream(call, chunks, media_type=SSE if sse else NDJSON, headers={"Cache-Control": "no-store"})


async def _check_sight(call: Call, subject: str | None) -> None:
    if subject is not None:
        try:
            await call.flows.runs.find(call.caller, subject)
        except NotFound:
            pass
        else:
            return
    require(call.caller, Scope.ADMIN)


async def _follow(call: Call, seq: int, subject: str | None, *, sse: bool) -> AsyncIterator[bytes]:
    wakeup = call.flows.wakeups.listen(channels.EVENTS)
    try:
        while True:
            events = await call.flows.events.after(seq, subject=subject, limit=_MAX_EVENTS)
            for event in events:
                seq = event.seq
                text = msgspec.json.encode(_body(event))
                yield b"id: %d\ndata: %s\n\n" % (seq, text) if sse else text + b"\n"
            if not events and not await wakeup.wait(_ALIVE_SECONDS):
                yield b": alive\n\n" if sse else b"\n"
    finally:
        wakeup.close()


def _body(event: Event) -> shapes.EventBody:
    return shapes.EventBody(event.seq, event.at, event.kind, event.subject, event.data)
