"""Stop a run that has used up its network traffic.

A runner ends the subtask that wants more than the whole run may have. What several subtasks use together is known here
only, as they end: when it exceeds the limit, or one of them was ended for it, the others are cancelled.
"""

from __future__ import annotations

from clawplane.domain.batches import WARN, LogLine
from clawplane.domain.ids import RunSlug
from clawplane.domain.leases import LeaseView, Outcome
from clawplane.domain.lifecycle import SubtaskStatus
from clawplane.domain.ports import Queue, Runs
from clawplane.domain.runs import EndedRun
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import closing

USED_UP = "The run's traffic limit is used up."
_MB = 1 << 20
_UNFINISHED = frozenset({SubtaskStatus.READY, SubtaskStatus.RUNNING})


async def stop_beyond_limit(
    runs: Runs,
    queue: Queue,
    wakeups: Wakeups,
    slug: RunSlug,
    outcome: Outcome,
    *,
    now: int,
) -> list[LeaseView]:
    """Cancel what is left of a run when its traffic is used up; return the leases whose runners have to be told."""
    run = await runs.find(slug) if outcome.traffic else None
    if run is None or run.status.ended or run.system.max_total_traffic <= 0:
        return []
    if outcome.reason != "traffic" and run.traffic <= run.system.max_total_traffic * _MB:
        return []
    left = [subtask.id for subtask in await runs.subtasks(slug) if subtask.status in _UNFINISHED]
    if not left:
        return []
    text = f"SYSTEM: The run has used up its {run.system.max_total_traffic} MB of network traffic; the rest is stopped."
    await runs.append_system_log(slug, "", [LogLine(WARN, text, now, "system")])
    leases = await queue.cancel(left, USED_UP)
    if not any(lease.confirmed for lease in leases):  # nothing runs that could report the last end
        ended = await runs.find(slug)
        if ended is not None and ended.status.ended:
            totals = closing.count(await runs.subtasks(slug))
            await closing.announce(runs, wakeups, EndedRun(slug=slug, status=ended.status, totals=totals), now)
    return leases
