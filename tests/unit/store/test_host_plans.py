"""No statement of host tasks' hot path reads what it does not need: their costs do not grow with what is stored."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawplane.domain.host_ports import Poll
from clawplane.domain.host_tasks import GROUPS, Command, NewTask, Reach, TaskId, TaskType
from clawplane.domain.ids import JobId, RunnerId
from clawplane.store import host_claims, host_submits
from clawplane.store.group_commit import drive
from clawplane.store.migrate import migrate
from clawplane.store.queries import load_queries
from clawplane.store.sqlite import SqliteTransaction

HOT = {
    "submit": [
        "host_task_of_key", "find_agent_binding", "agent_bindings_by_prefix", "upsert_agent_binding",
        "insert_host_task", "insert_host_state", "insert_host_event", "touch_agent_session", "take_head",
        "insert_behind", "count_host",
        "insert_job", "insert_ready", "count_jobs", "insert_timer",
    ],
    "claim": [
        "due_timers", "pick_ready", "delete_ready", "next_value", "insert_direct_lease", "host_tasks_of_jobs",
        "leases_of_jobs", "start_host", "unstart_host", "undo_host_event",
    ],
    "report": [
        "host_task_by_id", "host_tasks_of_ids", "waiting_jobs", "delayed_jobs", "delete_timer",
        "insert_attempt",
        "delete_leases", "end_host", "insert_host_result", "digest_of_host_result", "release_head",
        "delete_behind",
        "next_behind", "insert_host_parcel", "set_host_spec", "move_agent_bindings",
    ],
    "fetch": ["host_outlook", "find_host_result", "consume_host_result", "unconsume_host_result"],
    "read": [
        "caps_ahead", "job_place", "head_of_key", "host_page", "host_page_of_session", "host_events_of_task",
        "host_events_of_task_since", "host_events_of_type", "host_events_since", "due_host_parcels",
    ],
    "sweep": [
        "old_host_results", "old_fetched_results", "old_pending_host", "old_agent_sessions",
        "delete_old_agent_bindings", "delete_host_states", "delete_host_tasks", "delete_host_jobs",
        "delete_host_attempts", "delete_host_results",
        "delete_host_fetched", "delete_host_chunks", "delete_host_logs", "delete_behind_jobs",
    ],
}  # fmt: skip
BY_INDEX = ("waiting_caps", "host_events")
"""These walk an index or the table itself in order, and stop early: over what waits, and the newest."""


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path_factory.mktemp("plans") / "db", isolation_level=None)
    migrate(connection)
    yield connection
    connection.close()


def plan(connection: sqlite3.Connection, name: str) -> list[str]:
    query = load_queries("sqlite")[name]
    return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {query.sql}", [None] * len(query.params))]


@pytest.mark.parametrize("name", [name for names in HOT.values() for name in names])
def test_a_statement_of_the_hot_path_finds_its_rows_by_an_index(connection: sqlite3.Connection, name: str) -> None:
    for step in plan(connection, name):
        harmless = "json_each" in step or "CONSTANT" in step or "VIRTUAL TABLE" in step or step == "SCAN a"
        ordered_walk = name == "host_page" and step == "SCAN t"
        assert harmless or ordered_walk or not step.startswith("SCAN"), step


def test_what_is_walked_in_order_needs_no_sorting(connection: sqlite3.Connection) -> None:
    for name in (*BY_INDEX, "pick_ready", "host_page", "host_page_of_session", "old_pending_host", "due_host_parcels"):
        assert not any("TEMP B-TREE" in step for step in plan(connection, name)), name
    assert any("queue_count_waiting" in step for step in plan(connection, "waiting_caps"))


def work_of_a_claim(directory: Path, waiting: int) -> int:
    """Return how many hundreds of SQLite's instructions one claim takes while so many tasks wait."""
    connection = sqlite3.connect(directory / f"{waiting}.db", isolation_level=None)
    migrate(connection)
    tx = SqliteTransaction(connection, load_queries("sqlite"))
    made = [new_task(number + 1) for number in range(waiting)]
    connection.execute("BEGIN")  # one commit for all of them: the disk is not what is measured
    drive(host_submits.submit(tx, [host_submits.NewSubmission(new, 1) for new in made]))
    connection.execute("COMMIT")
    steps = itertools.count()
    poll = Poll(runner=RunnerId("poll:a"), reach=Reach(groups=GROUPS))
    drive(host_claims.claim(tx, [host_claims.Polls((poll,), 2)]))
    connection.set_progress_handler(lambda: next(steps) < 0, 100)
    assert drive(host_claims.claim(tx, [host_claims.Polls((poll,), 2)]))[0][0] is not None
    connection.set_progress_handler(None, 0)
    connection.close()
    return next(steps)


def new_task(job: int) -> NewTask:
    return NewTask(
        id=TaskId(f"t{job}"),
        job=JobId(job),
        owner="ann",
        type=TaskType.COMMAND,
        work=Command(command="x", timeout=1),
        created_at=1,
        timeout_ms=1,
    )


def test_a_claim_costs_the_same_with_ten_and_with_ten_thousand_tasks_waiting(tmp_path: Path) -> None:
    assert work_of_a_claim(tmp_path, 10_000) <= work_of_a_claim(tmp_path, 10) + 2
