"""Measure a trail of very many records of host tasks: ask it, read it, let go of it.

python -m bench.host_events [--records N]

The records are put in by SQLite alone, which is the baseline of the same run; everything else goes through the store's
port. While the trail is let go, somebody else keeps writing: how long he waits says how long a step holds the writer.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from bench.end_to_end import memory_mib
from bench.report import Figure, median, show
from clawplane.domain.host_ports import Retention, TaskEvents
from clawplane.domain.host_tasks import TaskEvent
from clawplane.store import open_store

FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO host_event (id, type, created_at, task, task_type, task_status, origin, dispatch_mode, response_mode,
    details, source)
SELECT printf('%036d', i), 'task.type-' || (i % 4), i, CASE WHEN i % 2 THEN 'chatty' ELSE printf('%036d', i / 8) END,
    'command', 'running', 'unknown', 'unspecified', 'direct-callback', '{"exitCode": 0}', 'server'
FROM n"""
COUNT = """
INSERT INTO host_event_count SELECT type, coalesce(task_status, 'unknown'), count(*) FROM host_event GROUP BY 1, 2"""
KEEP = 2_000
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the newest 500", {}),
    ("500 behind a place", {"since": 1000}),
    ("500 of one type", {"type_": "task.type-1"}),
    ("500 of one task", {"task": "chatty"}),
    ("500 of a task and a type", {"task": "chatty", "type_": "task.type-1"}),
)


def fill(file: Path, records: int) -> float:
    """Put the records in, and return how many a second that were."""
    connection = sqlite3.connect(file, isolation_level=None)
    began = time.perf_counter()
    connection.execute("BEGIN")
    connection.execute(FILL, {"count": records})
    connection.execute(COUNT)
    connection.execute("COMMIT")
    connection.close()
    return records / (time.perf_counter() - began)


async def ms_of(work: Callable[[], Awaitable[object]], rounds: int = 20) -> float:
    """Return the median time of something, in ms."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        await work()
        took.append((time.perf_counter() - began) * 1000)
    return median(took)


@contextmanager
def beside(events: TaskEvents, waits: list[float]) -> Iterator[None]:
    """Append one record after the other meanwhile, and note how long each took, in ms."""

    async def write() -> None:
        while True:
            began = time.perf_counter()
            await events.append(TaskEvent(seq=0, id="", type="beside", created_at=1 << 40, source="runner"))
            waits.append((time.perf_counter() - began) * 1000)

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        writing.cancel()


async def measure(records: int) -> list[Figure]:
    """Return the figures."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="bench-events-") as name:
        directory = Path(name)
        file = directory / "clawplane.db"
        await (await open_store(directory)).close()
        figures.append(Figure("baseline: records put in by SQLite alone, one commit", fill(file, records), "rows/s"))
        size = file.stat().st_size
        store = await open_store(directory)
        events, before = store.task_events, memory_mib([_own()])
        for what, filters in ASKED:
            asked: dict[str, Any] = {"task": "", "type_": "", "limit": 500, "since": None} | filters
            figures.append(Figure(f"list {what}", await ms_of(partial(events.page, **asked)), "ms"))
        figures.append(Figure("count them all, as /health does", await ms_of(events.stats), "ms"))
        read, since = time.perf_counter(), 0
        while page := await events.page(task="", type_="", limit=500, since=since):
            since = page[-1].seq
        figures.append(Figure("read them all, page by page", records / (time.perf_counter() - read), "rows/s"))
        for what, work in (
            ("trim all but 2,000", lambda: events.trim(Retention(max_events=KEEP, event_days=36_500), now=0)),
            ("give the room back", events.vacuum),
        ):
            waits: list[float] = []
            began = time.perf_counter()
            with beside(events, waits):
                await work()
            note = f"others waited {median(waits):.1f} ms, {max(waits):.1f} at most"
            figures.append(Figure(what, time.perf_counter() - began, "s", note=note))
        figures.append(Figure("memory that all this took", memory_mib([_own()]) - before, "MiB"))
        await store.close()
        figures.append(Figure("the file before", size / (1 << 20), "MiB"))
        figures.append(Figure("the file afterwards", file.stat().st_size / (1 << 20), "MiB"))
    return figures


def _own() -> int:
    return int(Path("/proc/self").resolve().name)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(options.records))
    show(f"The trail of host tasks with {options.records:,} records", figures)


if __name__ == "__main__":
    main()
