"""Show how things stand: counts, the trail, conversations. Nothing here changes anything but `maintain`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from clawplane.api.openclaw.shapes import event_record, session_state
from clawplane.api.openclaw.values import bounded_int, said_yes
from clawplane.api.openclaw.visits import House, Reply, Visit, answer, text_of_json
from clawplane.domain.access import Scope
from clawplane.domain.errors import InvalidArgument
from clawplane.flows import channels

_LIMIT: Final = 50
_MAX_LIMIT: Final = 500
_CLAUDE_SESSIONS: Final = 200
_ALIVE_SECONDS: Final = 15.0
_MOST_SEQ: Final = (1 << 53) - 1
_CLAUDE: Final = "claude"


async def health(visit: Visit) -> Reply:
    """Answer that the server is there, with its counts; where it keeps them is told to holders of a token only."""
    house = visit.house
    known = visit.known is not None and visit.known.may(Scope.READ)
    path = str(house.options.database) if known else house.options.database.name
    counts, retention = await house.host.counts(), house.host.rules.retention
    sessions, events = await house.host.conversations.stats(), await house.host.events.stats()
    return answer(
        {
            "status": "ok",
            "tasks": counts.total,
            "results": counts.results,
            "activeSessions": sessions["active"],
            "events": events["count"],
            "taskDb": {
                "path": path,
                "byStatus": counts.by_status,
                "resultRetentionMs": retention.result_ms,
                "taskRetentionMs": retention.task_ms,
            },
            "sessionDb": {"path": path, "retentionMs": retention.session_ms, "byType": sessions["byType"]},
            "eventDb": {
                "path": path,
                "retentionDays": retention.event_days,
                "maxEvents": retention.max_events,
                "sizeBytes": _size(house),
            },
        }
    )


async def task_stats(visit: Visit) -> Reply:
    """Answer with the counts of tasks and of results that wait."""
    house = visit.house
    counts, retention = await house.host.counts(), house.host.rules.retention
    return answer(
        {
            "queue": {
                "total": counts.total,
                "byStatus": counts.by_status,
                "unconsumedResults": counts.results,
                "path": str(house.options.database),
                "taskRetentionMs": retention.task_ms,
                "resultRetentionMs": retention.result_ms,
            }
        }
    )


async def events(visit: Visit) -> Reply:
    """Answer with records of the trail, newest first; with `sinceId` those behind that `seq`, oldest first."""
    query = visit.query
    limit = bounded_int(query.first("limit"), _LIMIT, 1, _MAX_LIMIT)
    page = await visit.house.host.events.page(
        task=query.only("taskId"), type_=query.only("type"), limit=limit, since=_since(query.first("sinceId"))
    )
    return answer({"events": [event_record(event) for event in page]})


def _since(text: str | None) -> int | None:
    if text is None or not text.strip():
        return None
    if not (text.isascii() and text.strip().isdecimal()):
        raise InvalidArgument("sinceId: use the seq of a record")
    return bounded_int(text, 0, 0, _MOST_SEQ)


async def stream(visit: Visit) -> Reply:
    """Follow the trail as server-sent events, from now on or behind `sinceId` (or the header Last-Event-ID)."""
    query = visit.query
    last = visit.headers.get(b"last-event-id", b"").decode("latin-1")
    since = _since(last or query.first("sinceId"))
    task, type_ = query.only("taskId"), query.only("type")
    if since is None:
        since = await visit.house.host.events.newest()
    records = _follow(visit, since, task, type_)
    return Reply(b"", stream=records, media=b"text/event-stream", headers=((b"cache-control", b"no-store"),))


async def _follow(visit: Visit, since: int, task: str, type_: str) -> AsyncIterator[bytes]:
    wakeup = visit.house.wakeups.listen(channels.EVENTS)
    try:
        yield b": following\n\n"
        while True:
            newest = await visit.house.host.events.newest()
            page = await visit.house.host.events.page(task=task, type_=type_, limit=_MAX_LIMIT, since=since)
            # what does not match is passed over once, not again with every record that comes
            since = page[-1].seq if len(page) == _MAX_LIMIT else max(newest, page[-1].seq if page else since)
            for event in page:
                yield f"id: {event.seq}\ndata: {text_of_json(event_record(event))}\n\n".encode()
            if not page and not await wakeup.wait(_ALIVE_SECONDS):
                yield b": alive\n\n"
    finally:
        wakeup.close()


async def event_stats(visit: Visit) -> Reply:
    """Answer with the counts of the trail."""
    return answer({"stats": await _event_stats(visit.house)})


async def maintain(visit: Visit) -> Reply:
    """Trim the trail now, and give free pages back when asked to."""
    body = await visit.json()
    house = visit.house
    vacuum = said_yes(body.get("vacuum"))
    before = await _event_stats(house)
    trim = await house.host.events.trim(house.host.rules.retention, now=house.clock.now_ms())
    if vacuum:
        await house.host.events.vacuum()
    return answer({"vacuumed": vacuum, "trim": trim, "before": before, "after": await _event_stats(house)})


async def _event_stats(house: House) -> dict[str, Any]:
    counted, retention = await house.host.events.stats(), house.host.rules.retention
    return {
        "path": str(house.options.database),
        "sizeBytes": _size(house),
        "count": counted["count"],
        "oldestCreatedAt": counted["oldestCreatedAt"],
        "newestCreatedAt": counted["newestCreatedAt"],
        "retentionDays": retention.event_days,
        "maxEvents": retention.max_events,
        "byType": counted["byType"],
        "byStatus": counted["byStatus"],
    }


async def session_stats(visit: Visit) -> Reply:
    """Answer with the counts of conversations."""
    counted = await visit.house.host.conversations.stats()
    return answer(
        {
            "sessions": {
                "path": str(visit.house.options.database),
                "active": counted["active"],
                "oldestLastActivity": counted["oldestLastActivity"],
                "newestLastActivity": counted["newestLastActivity"],
                "retentionMs": visit.house.host.rules.retention.session_ms,
                "byType": counted["byType"],
            }
        }
    )


async def session_states(visit: Visit) -> Reply:
    """Answer with conversations by their last activity."""
    limit = bounded_int(visit.query.first("limit"), _LIMIT, 1, _MAX_LIMIT)
    page = await visit.house.host.conversations.page(cli_type=visit.query.only("cliType"), limit=limit)
    return answer({"sessions": [session_state(session) for session in page]})


async def claude_sessions(visit: Visit) -> Reply:
    """Answer with the conversations with Claude."""
    page = await visit.house.host.conversations.page(cli_type=_CLAUDE, limit=_CLAUDE_SESSIONS)
    return answer(
        {
            "sessions": [
                {
                    "sessionId": session.session_id,
                    "lastActivity": session.last_activity,
                    "taskCount": session.task_count,
                    "callbackChannel": session.callback_channel,
                }
                for session in page
            ]
        }
    )


def _size(house: House) -> int:
    """Return the size of the store's file in bytes, 0 where there is none."""
    try:
        return house.options.database.stat().st_size
    except OSError:
        return 0
