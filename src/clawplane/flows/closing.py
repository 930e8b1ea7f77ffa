"""Say in a run's log how it ended, and wake who waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from clawplane.domain.batches import ERROR, INFO, LogLine
from clawplane.domain.clock import Clock
from clawplane.domain.lifecycle import RunStatus, SubtaskStatus
from clawplane.domain.ports import Runs
from clawplane.domain.runs import MIN_VISIBLE_MS, EndedRun, Subtask, SubtaskTotals
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels

_OPENING = "SYSTEM: Run "


def is_closing(content: str) -> bool:
    """Tell whether a log entry is a run's closing line."""
    return content.startswith(_OPENING)


def count(subtasks: Sequence[Subtask]) -> SubtaskTotals:
    """Return how subtasks stand."""
    states = Counter(subtask.status for subtask in subtasks)
    return SubtaskTotals(**{status.value: states[status] for status in SubtaskStatus})


def sentence(run: EndedRun) -> str:
    """Return the closing line with the subtask totals."""
    totals = run.totals
    count = totals.ready + totals.running + totals.succeeded + totals.failed + totals.aborted
    noun = "subtask" if count == 1 else "subtasks"
    return (
        f"{_OPENING}{run.status}: {count} {noun}, {totals.succeeded} succeeded, {totals.failed} failed, "
        f"{totals.aborted} aborted."
    )


async def until_visible(runs: Runs, clock: Clock, slug: str, *, offered_at: int) -> None:
    """Wait until a run is MIN_VISIBLE_MS old; a job offered longer ago than that needs no look at its run."""
    if clock.now_ms() - offered_at >= MIN_VISIBLE_MS:
        return
    run = await runs.find(slug)
    if run is not None:
        wait_ms = min(run.created_at + MIN_VISIBLE_MS - clock.now_ms(), MIN_VISIBLE_MS)
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1000)


async def announce(runs: Runs, wakeups: Wakeups, run: EndedRun, now: int) -> None:
    """Append the closing line to an ended run's log and wake its waiters."""
    kind = ERROR if run.status is RunStatus.FAILED else INFO
    line = LogLine(kind, sentence(run), now, "system")
    await runs.append_system_log(run.slug, "", [line])
    wakeups.notify(channels.log(run.slug))
    wakeups.notify(channels.run(run.slug))
    wakeups.notify(channels.EVENTS)
