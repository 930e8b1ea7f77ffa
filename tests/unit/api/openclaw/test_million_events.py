"""A trail of a million records: a question costs what its answer costs, and what is old is let go in small steps."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from task_plane import TaskPlane, task_plane

from clawplane.domain.host_ports import Retention
from clawplane.domain.host_tasks import TaskEvent
from clawplane.flows.host_tasks import HostRules
from clawplane.store import host_trail, open_store
from clawplane.store.group_commit import drive
from clawplane.store.migrate import migrate
from clawplane.store.queries import load_queries
from clawplane.store.sqlite import GIVE_BACK_PAGES, SqliteTransaction

MILLION = 1_000_000
FEW = 1_000
KEPT = 900_000
# every second record is of one task; one type is rare, and that task has one record of it
FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO host_event (id, type, created_at, task, task_status, origin, dispatch_mode, response_mode, source)
SELECT 'e' || i, CASE WHEN i % (:count / 10) = 1 THEN 'rare' ELSE 'type-' || (i % 5) END, i,
    CASE WHEN i % 2 THEN 'chatty' ELSE 'task-' || (i / 8) END, CASE WHEN i % 3 THEN 'running' END,
    'o', 'd', 'r', 'runner'
FROM n"""
COUNT = """
INSERT INTO host_event_count SELECT type, coalesce(task_status, 'unknown'), count(*) FROM host_event GROUP BY 1, 2"""


def filled(file: Path, count: int) -> None:
    """Make a database with so many records."""
    file.touch(mode=0o600)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("PRAGMA synchronous=OFF")
    migrate(connection)
    connection.execute("BEGIN")
    connection.execute(FILL, {"count": count})
    connection.execute(COUNT)
    connection.execute("COMMIT")
    connection.close()


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Path]]:
    made = {count: tmp_path_factory.mktemp(f"events-{count}") for count in (FEW, MILLION)}
    for count, directory in made.items():
        filled(directory / "clawplane.db", count)
    yield made
    for directory in made.values():
        shutil.rmtree(directory)


@pytest.fixture
async def plane(directories: dict[int, Path]) -> AsyncIterator[TaskPlane]:
    rules = HostRules(retention=Retention(max_events=KEPT, event_days=36_500))
    async with task_plane(directories[MILLION], rules=rules) as opened:
        yield opened


def steps_of(file: Path, work: Callable[[SqliteTransaction], Any]) -> int:
    """Return how many hundreds of SQLite's instructions something takes; nothing of it is kept."""
    connection = sqlite3.connect(file, isolation_level=None)
    tx = SqliteTransaction(connection, load_queries("sqlite"))
    count = itertools.count()
    connection.execute("BEGIN")
    connection.set_progress_handler(lambda: next(count) < 0, 100)
    work(tx)
    connection.set_progress_handler(None, 0)
    connection.execute("ROLLBACK")
    connection.close()
    return next(count)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("host_events", {}),
        ("host_events_since", {"since": FEW // 2}),
        ("host_events_of_type", {"type": "type-2"}),
        ("host_events_of_type", {"type": "unheard-of"}),
        ("host_events_of_type_since", {"type": "type-2", "since": 0}),
        ("host_events_of_task", {"task": "chatty", "type": ""}),
        ("host_events_of_task", {"task": "nobody", "type": "type-2"}),
        ("host_events_of_task_since", {"task": "chatty", "type": "", "since": 0}),
        ("host_events_of_rare_type", {"task": "chatty", "type": "rare"}),
        ("host_events_of_rare_type", {"task": "chatty", "type": "unheard-of"}),
        ("host_events_of_rare_type_since", {"task": "chatty", "type": "rare", "since": 0}),
        ("newest_host_event", {}),
        ("number_of_host_events", {"type": "type-2"}),
        ("host_event_stats", {}),
        ("host_events_by_type", {}),
        ("host_events_by_status", {}),
        ("oldest_host_events", {}),
        ("last_custody_of_task", {"task": "task-7"}),
    ],
    ids=str,
)
def test_no_question_costs_more_among_a_million_records_than_among_a_thousand(
    directories: dict[int, Path], name: str, asked: Mapping[str, object]
) -> None:
    few, many = [
        steps_of(directories[count] / "clawplane.db", lambda tx: drive(tx.fetch(name, {"limit": 50, **asked})))
        for count in (FEW, MILLION)
    ]
    assert many <= few + 2


def test_one_step_of_trimming_removes_a_bounded_number_and_costs_the_same_in_a_trail_of_any_length(
    directories: dict[int, Path],
) -> None:
    removed = []

    def trim(keep: int) -> Callable[[SqliteTransaction], None]:
        def work(tx: SqliteTransaction) -> None:
            (step,) = drive(host_trail.trim(tx, [host_trail.Trim(0, keep)]))
            removed.append(step.expired + step.overflow)

        return work

    file = directories[MILLION] / "clawplane.db"
    a_little, very_much = steps_of(file, trim(MILLION - 3000)), steps_of(file, trim(0))
    assert removed == [host_trail.TRIM_STEP] * 2
    assert very_much <= a_little * 1.1
    nothing = steps_of(file, trim(MILLION))
    assert (removed[-1], nothing < 20) == (0, True)


async def test_lists_are_bounded_whatever_is_asked_for(plane: TaskPlane) -> None:
    client = plane.client()
    answer = await client.get("/events?limit=1000000")
    assert len(answer.json["events"]) == 500
    assert answer.json["events"][0]["seq"] == MILLION
    for limit in ("0", "-5", "-1000000"):
        assert len((await client.get(f"/events?limit={limit}")).json["events"]) == 1
    for limit in ("", "x", "NaN", "null", "%F0%9F%98%80"):
        assert len((await client.get(f"/events?limit={limit}")).json["events"]) == 50
    assert len((await client.get(f"/events?limit={'9' * 5000}")).json["events"]) == 500
    assert (await client.get(f"/events?sinceId={'9' * 5000}")).json["events"] == []
    for since in ("x", "-1", "1.5", "1e3", "%D9%A3", "0x10"):
        answer = await client.get(f"/events?sinceId={since}")
        assert (answer.status, answer.json["error"].partition(":")[0]) == (400, "sinceId")
        assert (await client.get(f"/events/stream?sinceId={since}")).status == 400


async def test_pages_follow_each_other_anywhere_in_the_trail_and_with_every_filter(plane: TaskPlane) -> None:
    client = plane.client()
    for begin in (0, MILLION // 2, MILLION - 700):
        pages = [begin]
        for _ in range(2):
            page = (await client.get(f"/events?limit=500&sinceId={pages[-1]}")).json["events"]
            pages += [each["seq"] for each in page]
        assert pages == list(range(pages[0], pages[0] + len(pages)))
    rare = (await client.get("/events?type=rare&taskId=chatty&limit=500")).json["events"]
    assert [each["seq"] for each in rare] == [number * (MILLION // 10) + 1 for number in range(9, -1, -1)]
    behind = (await client.get("/events?type=rare&taskId=chatty&sinceId=500001&limit=2")).json["events"]
    assert [each["seq"] for each in behind] == [600_001, 700_001]
    frequent = (await client.get("/events?type=type-3&taskId=chatty&limit=3")).json["events"]
    assert [each["seq"] for each in frequent] == [MILLION - 7, MILLION - 17, MILLION - 27]


async def test_the_numbers_are_right_and_stay_right(plane: TaskPlane) -> None:
    client = plane.client(None)
    assert (await client.get("/health")).json["events"] == MILLION
    stats = (await plane.client().get("/events/stats")).json["stats"]
    assert (stats["count"], stats["oldestCreatedAt"], stats["newestCreatedAt"]) == (MILLION, 1, MILLION)
    assert sum(each["count"] for each in stats["byType"]) == MILLION
    assert {"type": "rare", "count": 10} in stats["byType"]
    assert stats["byStatus"] == [
        {"taskStatus": "running", "count": 666_667},
        {"taskStatus": "unknown", "count": 333_333},
    ]


async def test_a_follower_that_does_not_read_is_not_read_ahead_for(plane: TaskPlane) -> None:
    events = plane.house.host.events
    pages = itertools.count()
    ask = events.page

    async def page(**asked: Any) -> list[TaskEvent]:
        next(pages)
        return await ask(**asked)

    events.page = page  # type: ignore[method-assign]
    follower, other = plane.client(), plane.client()
    tracemalloc.start()
    try:
        await follower.send("GET", "/events/stream?sinceId=0")
        before = -1
        while (now := next(pages)) != before + 1:  # until it asks for no more while others are answered
            before = now
            for _ in range(20):
                await other.get("/health")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 200  # of 2000; what the kernel's buffers take
    assert peak < 32 << 20
    assert follower.reader is not None
    seen = []
    while len(seen) < 1200:
        line = await follower.reader.readline()
        if line.startswith(b"id: "):
            seen.append(int(line[4:]))
    assert seen == list(range(1, 1201))


async def test_a_filtered_follower_passes_over_what_does_not_match_once(plane: TaskPlane) -> None:
    events = plane.house.host.events
    asked: list[int] = []
    ask = events.page

    async def page(**more: Any) -> list[TaskEvent]:
        asked.append(more["since"])
        return await ask(**more)

    events.page = page  # type: ignore[method-assign]
    follower, client = plane.client(), plane.client()
    await follower.send("GET", "/events/stream?type=wanted&taskId=chatty&sinceId=5")
    assert follower.reader is not None
    await follower.reader.readuntil(b": following\n\n")
    other = (await client.post("/worker/event", {"type": "other", "taskId": "chatty"})).json["event"]
    wanted = (await client.post("/worker/event", {"type": "wanted", "taskId": "chatty"})).json["event"]
    async with asyncio.timeout(30):
        line = await follower.reader.readuntil(b"\n\n")
    assert f"id: {wanted['seq']}\n".encode() in line
    assert asked[0] == 5
    assert all(since >= MILLION for since in asked[1:])
    assert other["seq"] == MILLION + 1


async def test_retention_and_vacuum_let_others_write_in_between_and_the_file_shrinks(
    plane: TaskPlane, directories: dict[int, Path]
) -> None:
    """The last one in this file: it changes what the others read."""
    file = directories[MILLION] / "clawplane.db"
    full = file.stat().st_size
    maintained, client = plane.client(), plane.client()
    await maintained.send("POST", "/events/maintenance", {"vacuum": True})
    maintaining = asyncio.create_task(maintained.answer("POST"))
    tasks = [(await client.post("/tasks", {"command": str(number)})).json["taskId"] for number in range(5)]
    assert not maintaining.done()
    told = (await maintaining).json
    before, trim, after = told["before"], told["trim"], told["after"]
    assert (told["vacuumed"], trim["deletedExpired"], trim["count"]) == (True, 0, KEPT)
    assert trim["deletedOverflow"] >= before["count"] - KEPT
    assert after["sizeBytes"] < full * 0.95
    counted = {each["type"]: each["count"] for each in after["byType"]}
    assert counted["task.created"] == len(tasks)
    assert (await client.get(f"/events?taskId={tasks[0]}")).json["events"][0]["type"] == "task.created"


async def test_one_commit_gives_back_a_bounded_number_of_pages(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    try:
        for number in range(12):
            told = TaskEvent(seq=0, id="", type="x", created_at=number, source="runner", details="x" * 1_000_000)
            await store.task_events.append(told)
        await store.task_events.trim(Retention(max_events=1), now=0)
        free = []
        database = store._database
        write = database.write

        def watched(operation: Any, item: Any, **more: Any) -> Any:
            with sqlite3.connect(tmp_path / "clawplane.db") as connection:
                free.append(connection.execute("PRAGMA freelist_count").fetchone()[0])
            return write(operation, item, **more)

        database.write = watched
        await store.task_events.vacuum()
        given = [more - less for more, less in itertools.pairwise(free)]
        assert given
        assert set(given) == {GIVE_BACK_PAGES}
    finally:
        await store.close()
