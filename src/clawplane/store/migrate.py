"""Bring the tables up to date with numbered migrations.

A migration is a file `NNNN_name.<dialect>.sql` that is never changed once released; its checksum is kept so that a
changed one is noticed. All missing migrations run in one transaction. A database that knows more migrations than this
program is newer than it, and is refused rather than guessed at.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files

import msgspec

from clawplane.domain.errors import StoreError
from clawplane.store.queries import Dialect

_TABLE = """CREATE TABLE IF NOT EXISTS schema_migration
(number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL)"""


class Migration(msgspec.Struct, frozen=True):
    """One numbered step."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Return the SHA-256 of the step's text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(dialect: Dialect) -> list[Migration]:
    """Return the migrations of this program, in order; their numbers are 1, 2, 3 ..."""
    folder = files("clawplane.store") / "sql" / "migrations"
    found = []
    for entry in folder.iterdir():
        stem, _, rest = entry.name.partition(".")
        if rest == f"{dialect}.sql":
            number, _, name = stem.partition("_")
            found.append(Migration(int(number), name, entry.read_text()))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise StoreError("The migrations of this installation are not numbered 1, 2, 3 ...; install it again.")
    return found


def pending(migrations: Sequence[Migration], applied: Mapping[int, str]) -> list[Migration]:
    """Return what has still to run; `applied` maps numbers to checksums. Raises StoreError when the two disagree."""
    if max(applied, default=0) > len(migrations):
        raise StoreError(
            f"The database has version {max(applied)}, but this program knows only up to {len(migrations)}.",
            hint="Start the newer clawplane that wrote it, or use another --data directory.",
        )
    for migration in migrations:
        known = applied.get(migration.number)
        if known is not None and known != migration.checksum:
            raise StoreError(
                f"Migration {migration.number} ({migration.name}) is not the one that made this database.",
                hint="Install the release that wrote the database; a released migration never changes.",
            )
    return [migration for migration in migrations if migration.number not in applied]


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] | None = None) -> None:
    """Run the missing migrations on a SQLite database in one transaction; without `migrations`, this program's own."""
    steps = load_migrations("sqlite") if migrations is None else migrations
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_TABLE)
        applied = dict(connection.execute("SELECT number, checksum FROM schema_migration"))
        for step in pending(steps, applied):
            for statement in statements(step.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migration VALUES (?, ?, ?, ?)",
                (step.number, step.name, step.checksum, time.time_ns() // 1_000_000),
            )
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def statements(script: str) -> list[str]:
    """Split a script at the semicolons that end a line."""
    found: list[str] = []
    collected = ""
    for line in script.splitlines():
        text = line.partition("--")[0].rstrip()
        collected += text + "\n"
        if text.endswith(";"):
            found.append(collected.strip())
            collected = ""
    return found
