"""The trail of host tasks: list, follow, count, trim. And the runners that take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.native import host_shapes as shapes
from clawplane.api.native.host_requests import MaintenanceBody
from clawplane.api.native.host_tasks import host_of
from clawplane.api.native.logs import NDJSON, SSE, wants_events
from clawplane.domain.host_tasks import TaskEvent
from clawplane.domain.leases import JobKind
from clawplane.flows import channels

_LIMIT: Final = 50
_MOST: Final = 500
_MOST_SEQ: Final = 2**53
_SEQ_DIGITS: Final = 17
_ALIVE_SECONDS: Final = 15.0


async def list_events(call: Call) -> Response:
    """Return records behind `after`, or the newest without it; oldest first. With `follow` they are streamed.

    Following begins behind `after` (for server-sent events also behind Last-Event-ID), without it with what comes next.
    """
    task, type_ = call.text("task"), call.text("type")
    limit = call.number("limit", _LIMIT, low=1, high=_MOST) or _LIMIT
    after = call.number("after", None, low=0, high=_MOST_SEQ)
    if call.flag("follow"):
        return await _stream(call, _resumed(call, after), task, type_)
    page = await host_of(call).events.page(task=task, type_=type_, limit=limit, since=after)
    ordered = page if after is not None else page[::-1]
    return shapes.reply(call, shapes.HostEventList([shapes.event_body(event) for event in ordered]))


def _resumed(call: Call, after: int | None) -> int | None:
    last = call.request.headers.get("last-event-id", "")
    if not wants_events(call) or not (last.isascii() and last.isdecimal() and len(last) < _SEQ_DIGITS):
        return after
    return max(after or 0, int(last))


async def _stream(call: Call, after: int | None, task: str, type_: str) -> Response:
    if after is None:
        after = await host_of(call).events.newest()
    sse = wants_events(call)
    chunks = _follow(call, after, task, type_, sse=sse)
    return replies.stream(call, chunks, media_type=SSE if sse else NDJSON, headers={"Cache-Control": "no-store"})


async def _follow(call: Call, after: int, task: str, type_: str, *, sse: bool) -> AsyncIterator[bytes]:
    events = host_of(call).events
    wakeup = call.flows.wakeups.listen(channels.EVENTS)
    alive = b": alive\n\n" if sse else b"\n"
    try:
        yield alive
        while True:
            newest = await events.newest()
            page = await events.page(task=task, type_=type_, limit=_MOST, since=after)
            # what does not match is passed over once, not again with every record that comes
            after = page[-1].seq if len(page) == _MOST else max(newest, page[-1].seq if page else after)
            if page:
                yield b"".join(_encoded(event, sse=sse) for event in page)
            elif not await wakeup.wait(_ALIVE_SECONDS):
                yield alive
    finally:
        wakeup.close()


def _encoded(event: TaskEvent, *, sse: bool) -> bytes:
    text = shapes.dumped(msgspec.to_builtins(shapes.event_body(event)))
    return b"id: %d\ndata: %s\n\n" % (event.seq, text) if sse else text + b"\n"


async def event_stats(call: Call) -> Response:
    """Return how many records there are and within which bounds they are kept."""
    host = host_of(call)
    counted, retention = await host.events.stats(), host.rules.retention
    body = shapes.HostEventStats(
        count=counted["count"],
        oldest=counted["oldestCreatedAt"],
        newest=counted["newestCreatedAt"],
        retention_days=retention.event_days,
        max_events=retention.max_events,
        by_type={each["type"]: each["count"] for each in counted["byType"]},
    )
    return shapes.reply(call, body)


async def maintain(call: Call) -> Response:
    """Trim the trail to its bounds now, and with `vacuum` give free pages back to the file system."""
    asked = await call.body(MaintenanceBody, empty=True)
    host = host_of(call)
    trim = await host.events.trim(host.rules.retention, now=call.flows.clock.now_ms())
    if asked.vacuum:
        await host.events.vacuum()
    body = shapes.Trimmed(
        expired=trim["deletedExpired"], overflow=trim["deletedOverflow"], count=trim["count"], vacuumed=asked.vacuum
    )
    return shapes.reply(call, body)


async def list_runners(call: Call) -> Response:
    """Return the runners that take host tasks, with what each is and has."""
    host = host_of(call)
    leases = [lease for lease in await call.flows.queue.leases() if lease.kind is JobKind.HOST]
    running = Counter(lease.runner for lease in leases if lease.confirmed)
    records = [record for record in await call.flows.leases.runners() if "host" in record.capabilities]
    listed = [shapes.runner_body(record, running[record.id]) for record in records]
    return shapes.reply(call, shapes.HostRunnerList(listed, host.pollers.parked))
