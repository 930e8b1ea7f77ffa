from __future__ import annotations

import sqlite3

import pytest

from clawplane.store.migrate import migrate
from clawplane.store.queries import load_queries, parse

TEXT = """-- What this file is for.

-- name: one
SELECT :b, :a, :b -- the :comment is no parameter
FROM t WHERE x = ':text' OR y = z::int;

-- name: two
DELETE FROM t
"""


def test_parameters_are_numbered_in_the_order_in_which_they_first_appear() -> None:
    assert parse("-- name: q\nSELECT :b, :a, :b", "sqlite")["q"].sql == "SELECT ?1, ?2, ?1"
    assert parse("-- name: q\nSELECT :b, :a, :b", "postgres")["q"].sql == "SELECT $1, $2, $1"
    assert parse("-- name: q\nSELECT :b, :a, :b", "sqlite")["q"].params == ("b", "a")


def test_a_file_holds_many_statements_and_comments_are_left_out() -> None:
    queries = parse(TEXT, "postgres")
    assert list(queries) == ["one", "two"]
    assert "comment" not in queries["one"].sql
    assert queries["two"].sql == "DELETE FROM t"


def test_casts_are_no_parameters() -> None:
    assert parse("-- name: q\nSELECT x::int, :a::text", "postgres")["q"].sql == "SELECT x::int, $1::text"


def test_statements_for_other_engines_are_not_loaded() -> None:
    assert "leases_of_jobs" in load_queries("sqlite")
    assert "leases_of_jobs" not in load_queries("postgres")


@pytest.mark.parametrize("name", sorted(load_queries("sqlite")))
def test_every_statement_is_accepted_by_the_database(name: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    query = load_queries("sqlite")[name]
    connection.execute(f"EXPLAIN {query.sql}", [None] * len(query.params)).fetchall()
    connection.close()
