"""Give tasks to runners that poll, and hear that they live.

A runner of the peer takes every answer but 200 for a task and falls over it. So whoever polls with a valid token hears
200 with a task or null, whatever happens here (the line's `fallback` in routes.py); after a failure null comes late, so
that the runner does not spin.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from clawplane.api.openclaw.fields import named, parsed_labels
from clawplane.api.openclaw.shapes import task_object
from clawplane.api.openclaw.values import bounded_int, optional_text, text_of
from clawplane.api.openclaw.visits import Query, Reply, Visit, answer
from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.domain.host_ports import Claimed, Poll
from clawplane.domain.host_tasks import GROUPS, HOST_SILENCE_MS, Reach, TaskId
from clawplane.domain.ids import POLLS, RunnerId
from clawplane.flows.polling_runners import ANONYMOUS, HeldTask

_log = logging.getLogger(__name__)

_WAIT_MS: Final = 30_000
_MIN_WAIT_MS: Final = 1_000
_MAX_WAIT_MS: Final = 60_000
_MOST_HELD: Final = 1_000
_MOST_SLOTS: Final = 1_000
_MOST_NUMBER: Final = (1 << 53) - 1
NOTHING: Final = Reply(b"null")
_ANYBODY: Final = Poll(runner=ANONYMOUS, reach=Reach(groups=GROUPS))
_GROUP_OF: Final = {
    **{group: group for group in GROUPS},
    "command": "command",
    "file-write": "files",
    "file-read": "files",
    "file-edit": "files",
    "claude-cli": "claude",
    "codex-cli": "codex",
    "gemini-cli": "gemini",
}


async def poll(visit: Visit) -> Reply:
    """Answer with a task, or null when the time is up; `wait` in ms.

    Additive: `runnerId`, `capabilities` (task types, by commas), `labels` (key=value, by commas), `heartbeats=1` for a
    runner that keeps its tasks by heartbeats, `callbacks=server` for one that leaves them to the control plane.
    """
    query = visit.query
    wait = bounded_int(query.first("wait"), _WAIT_MS, _MIN_WAIT_MS, _MAX_WAIT_MS)
    asked = _asked(query)
    if asked.runner != ANONYMOUS:
        await visit.house.runners.polled(asked.runner, asked.reach)
    claimed = await visit.house.host.poll(asked, seconds=wait / 1000, gone=visit.gone())
    return NOTHING if claimed is None else _given(visit, claimed, asked)


async def look(visit: Visit) -> Reply:
    """Answer HEAD: nothing is claimed."""
    return NOTHING


def _given(visit: Visit, claimed: Claimed, asked: Poll) -> Reply:
    host, named_itself = visit.house.host, asked.runner != ANONYMOUS
    try:
        token = host.unseal(claimed.callback_token)
    except ClawplaneError as error:
        _log.warning("the bot token of task %s is lost: %s", claimed.task.id, error.message)
        token = None
    told = task_object(claimed.task, token, fence=claimed.fence if named_itself else None)
    if asked.server_delivers or host.rules.server_callbacks:
        told["callbacks"] = "server"  # so that a runner that would send by itself leaves it
    return answer(told, undo=partial(host.undeliver, claimed))


def _asked(query: Query) -> Poll:
    """Return what a poll asks for; raises InvalidArgument, which the log tells, for what no peer's runner says."""
    runner, capabilities, labels = query.only("runnerId"), query.only("capabilities"), query.only("labels")
    heartbeats, server = query.only("heartbeats") == "1", query.only("callbacks") == "server"
    if not (runner or capabilities or labels or server):
        return _ANYBODY
    return Poll(
        runner=_id_of(runner),
        reach=_reach(runner, capabilities, labels, query.only("name")),
        silence_ms=HOST_SILENCE_MS if heartbeats and runner else None,
        server_delivers=server,
    )


def _id_of(runner: str) -> RunnerId:
    return RunnerId(f"{POLLS}{named(runner, 'runnerId')}") if runner else ANONYMOUS


def _reach(runner: str, capabilities: str, labels: str, name: str) -> Reach:
    return Reach(
        groups=_groups([entry.strip() for entry in capabilities.split(",") if entry.strip()]),
        runner=runner,
        name=named(name, "name") or runner,
        labels=parsed_labels(labels),
    )


def _groups(capabilities: list[str]) -> tuple[str, ...]:
    if not capabilities:
        return GROUPS
    found = {_GROUP_OF[each.removeprefix("host@")] for each in capabilities if each.removeprefix("host@") in _GROUP_OF}
    if not found:
        raise InvalidArgument(f"capabilities: use task types, or some of {', '.join(GROUPS)}")
    return tuple(group for group in GROUPS if group in found)


async def heartbeat(visit: Visit) -> Reply:
    """Keep the tasks that a runner names; answer with those that it lost and those that it shall stop.

    With `inventory`, a number higher than any before, the runner says that `tasks` is all that it has and that no poll
    of its is open. The answer says whether that number was `taken`, and the number of the last that was.
    """
    body = await visit.json()
    runner = text_of(body.get("runnerId"))
    if not runner:
        raise InvalidArgument("runnerId is required")
    capabilities = body.get("capabilities") or []
    if not isinstance(capabilities, list):
        raise InvalidArgument("capabilities: use a list of task types")
    reach = _reach(runner, ",".join(map(text_of, capabilities)), "", text_of(body.get("name")))
    labels, held, number = _labels(body.get("labels")), _held(body.get("tasks")), _inventory(body)
    stock = None if number is None else await visit.house.runners.took_stock(_id_of(runner), number, held)
    beat = await visit.house.runners.heard(
        _id_of(runner),
        Reach(groups=reach.groups, runner=runner, name=reach.name, labels=labels),
        held,
        version=(optional_text(body.get("version")) or "")[:100],
        slots=bounded_int(body.get("slots"), 0, 0, _MOST_SLOTS),
    )
    return answer(
        {
            "success": True,
            "silenceMs": HOST_SILENCE_MS,
            "lost": list(beat.lost),
            "cancel": [{"taskId": task, "reason": reason} for task, reason in beat.cancel],
            **({} if stock is None else {"inventory": {"taken": stock.taken, "number": stock.number}}),
        }
    )


def _inventory(body: Mapping[str, Any]) -> int | None:
    value = body.get("inventory")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST_NUMBER:
        raise InvalidArgument(f"inventory: use a whole number from 1 to {_MOST_NUMBER}")
    if body.get("tasks") is None:
        raise InvalidArgument("inventory: name all tasks in tasks, [] for none")
    return value


def _labels(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument("labels: use an object of names and texts")
    return parsed_labels(",".join(f"{key}={text_of(each)}" for key, each in value.items()))


def _held(value: Any) -> list[HeldTask]:
    if value is None:
        return []
    problem = InvalidArgument(f"tasks: use a list of up to {_MOST_HELD} objects with taskId and claim")
    if not isinstance(value, list) or len(value) > _MOST_HELD:
        raise problem
    held = []
    for each in value:
        if not isinstance(each, dict) or not text_of(each.get("taskId")):
            raise problem
        claim = bounded_int(each.get("claim"), 0, 0, _MOST_NUMBER)
        held.append(HeldTask(task=TaskId(text_of(each["taskId"])), claim=claim))
    return held


async def list_runners(visit: Visit) -> Reply:
    """Answer with the runners that take host tasks, also those that are away, with when each was last heard of."""
    records = await visit.house.runners.all()
    return answer(
        {
            "runners": [
                {
                    "id": record.id.removeprefix(POLLS),
                    "kind": "poll" if record.id.startswith(POLLS) else "link",
                    "name": record.name,
                    "version": record.version,
                    "capabilities": list(record.capabilities),
                    "labels": record.labels,
                    "slots": record.slots,
                    "connected": record.connected,
                    "draining": record.draining,
                    "lastSeen": record.last_seen,
                }
                for record in records
            ]
        }
    )
