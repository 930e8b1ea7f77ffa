"""What is left of host tasks when their server is killed: all that was acknowledged, once, and nothing half done."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from clawplane.domain.host_tasks import TaskId
from clawplane.store import open_store

WORK = """
import asyncio, itertools, sys
from pathlib import Path
from clawplane.domain.host_ports import Poll
from clawplane.domain.host_tasks import GROUPS, NewTask, Prompt, Reach, TaskId, TaskReport, TaskType
from clawplane.domain.ids import JobId, RunnerId
from clawplane.store import open_store

jobs = itertools.count(1)

async def client(store, name):
    while True:
        job = next(jobs)
        work = Prompt(cli="claude", prompt="x", timeout=1, session_id=f"s{job % 3}")
        new = NewTask(id=TaskId(f"t{job}"), job=JobId(job), owner="ann", type=TaskType.CLAUDE, work=work,
                      created_at=job, timeout_ms=1000, session_id=work.session_id, callback_url="http://hook/")
        await store.host_tasks.submit(new, now=job)
        print("submitted", new.id, flush=True)

async def runner(store, name):
    poll = Poll(runner=RunnerId(f"poll:{name}"), reach=Reach(groups=GROUPS))
    while True:
        (claimed,) = await store.host_tasks.claim([poll], now=1)
        if claimed is None:
            await asyncio.sleep(0)
            continue
        print("claimed", claimed.task.id, flush=True)
        await store.host_tasks.report(claimed.task.id, TaskReport(stdout=name, exit_code=0), now=1)
        print("reported", claimed.task.id, flush=True)
        if await store.host_tasks.take_result(claimed.task.id, now=1):
            print("taken", claimed.task.id, flush=True)

async def main():
    store = await open_store(Path(sys.argv[1]))
    print("ready", flush=True)
    await asyncio.gather(*(client(store, n) for n in range(2)), *(runner(store, str(n)) for n in range(3)))
asyncio.run(main())
"""

TABLES = {
    "unfinished heads": "SELECT count(*) FROM host_head h JOIN host_state s ON s.job = h.job "
    "WHERE s.status IN ('completed', 'failed')",
    "ready without a task": "SELECT count(*) FROM ready r LEFT JOIN host_state s ON s.job = r.job "
    "WHERE s.status IS NOT 'pending'",
    "leases without a run": "SELECT count(*) FROM lease l LEFT JOIN host_state s ON s.job = l.job "
    "WHERE s.status IS NOT 'running'",
    "ends without a result": "SELECT count(*) FROM host_state s JOIN host_task t ON t.job = s.job "
    "LEFT JOIN host_result r ON r.task = t.id WHERE (s.status IN ('completed', 'failed')) <> (r.task IS NOT NULL)",
    "ends without a callback": "SELECT count(*) FROM host_state s JOIN host_task t ON t.job = s.job "
    "LEFT JOIN host_parcel p ON p.task = t.id WHERE (s.status = 'completed') <> (p.task IS NOT NULL)",
    "fetched without a record": "SELECT count(*) FROM host_fetched f LEFT JOIN host_event e "
    "ON e.task = f.task AND e.type = 'task.reconciled' WHERE e.task IS NULL",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_acknowledged_before_a_kill_is_there_once_and_the_tables_agree(
    tmp_path: Path, seed: int
) -> None:
    said: dict[str, set[str]] = {"submitted": set(), "claimed": set(), "reported": set(), "taken": set()}
    command = [sys.executable, "-c", textwrap.dedent(WORK), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(random.Random(seed).randint(50, 500)):
            word, task = process.stdout.readline().split()
            said[word].add(task)
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            if line.endswith("\n") and len(line.split()) == 2:
                said[line.split()[0]].add(line.split()[1])
    store = await open_store(tmp_path)
    try:
        for task in said["submitted"]:
            assert await store.host_tasks.find(TaskId(task)) is not None
        for task in said["reported"]:
            result = await store.host_tasks.result(TaskId(task))
            assert result is not None
            assert json.loads(result.body)["exitCode"] == 0
        for task in said["taken"]:
            assert await store.host_tasks.take_result(TaskId(task), now=2) is None
        events = await store.task_events.page(task="", type_="", limit=100_000, since=0)
        assert max(Counter((event.task_id, event.type) for event in events).values()) == 1
        counts = await store.host_tasks.counts()
    finally:
        await store.close()
    with sqlite3.connect(tmp_path / "clawplane.db") as connection:
        assert {name: connection.execute(sql).fetchone()[0] for name, sql in TABLES.items()} == dict.fromkeys(TABLES, 0)
        shown = dict(
            connection.execute(
                "SELECT status, count(*) FROM host_state s JOIN host_task t ON t.job = s.job "
                "WHERE NOT EXISTS (SELECT 1 FROM host_fetched f WHERE f.task = t.id) GROUP BY status"
            )
        )
        assert counts.by_status == shown
        assert (
            connection.execute("SELECT sum(ready) FROM queue_count").fetchone()
            == connection.execute("SELECT count(*) FROM ready").fetchone()
        )
    connection.close()
