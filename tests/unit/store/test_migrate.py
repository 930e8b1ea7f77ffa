from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from clawplane.domain.errors import StoreError
from clawplane.store.migrate import Migration, load_migrations, migrate, pending, statements

FIRST = Migration(1, "first", "CREATE TABLE a (x INTEGER);\nINSERT INTO a VALUES (1);\n")
SECOND = Migration(2, "second", "CREATE TABLE b (x INTEGER);\n")
BROKEN = Migration(2, "broken", "CREATE TABLE c (x INTEGER);\nINSERT INTO nowhere VALUES (1);\n")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'schema%'")
    return {name for (name,) in rows}


def test_missing_migrations_run_once_and_in_order(connection: sqlite3.Connection) -> None:
    migrate(connection, [FIRST])
    migrate(connection, [FIRST, SECOND])
    migrate(connection, [FIRST, SECOND])
    assert tables(connection) == {"a", "b"}
    assert connection.execute("SELECT count(*) FROM a").fetchone() == (1,)


def test_a_migration_that_fails_leaves_nothing_of_any(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, [FIRST, BROKEN])
    assert tables(connection) == set()
    migrate(connection, [FIRST, SECOND])
    assert tables(connection) == {"a", "b"}


def test_a_database_newer_than_the_program_is_refused(connection: sqlite3.Connection) -> None:
    migrate(connection, [FIRST, SECOND])
    with pytest.raises(StoreError, match="version 2") as refusal:
        migrate(connection, [FIRST])
    assert "newer" in refusal.value.hint


def test_a_migration_that_was_changed_after_it_ran_is_refused() -> None:
    with pytest.raises(StoreError, match="first"):
        pending([FIRST], {1: "another checksum"})


def test_statements_end_with_a_semicolon_at_the_end_of_a_line_and_comments_do_not_count() -> None:
    script = "-- one; two;\nCREATE TABLE a ( -- here;\n  x\n);\n\nDROP TABLE b;\n"
    assert [" ".join(text.split()) for text in statements(script)] == ["CREATE TABLE a ( x );", "DROP TABLE b;"]


def test_the_programs_own_migrations_are_numbered_without_gaps() -> None:
    numbers = [migration.number for migration in load_migrations("sqlite")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 2


def test_records_that_were_there_before_they_were_counted_are_counted(connection: sqlite3.Connection) -> None:
    migrations = load_migrations("sqlite")
    migrate(connection, migrations[:5])
    row = "INSERT INTO host_event (id, type, created_at, task_status, origin, dispatch_mode, response_mode, source)"
    for type_, status in (("a", "running"), ("a", "running"), ("b", None)):
        connection.execute(f"{row} VALUES ('', ?, 1, ?, '', '', '', '')", (type_, status))
    migrate(connection, migrations)
    counted = connection.execute("SELECT type, task_status, number FROM host_event_count").fetchall()
    assert counted == [("a", "running", 2), ("b", "unknown", 1)]
