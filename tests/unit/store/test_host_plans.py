"""No statement of host tasks' hot path reads what it does not need: their costs do not grow with what is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from clawplane.store.migrate import migrate
from clawplane.store.queries import load_queries

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
        "next_host_parcel",
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
