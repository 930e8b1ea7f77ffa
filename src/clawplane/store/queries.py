"""Load the named statements of sql/*.sql.

A file holds statements headed by `-- name: some_name`. `feature.sql` is what every engine runs; a statement in
`feature.sqlite.sql` stands beside or replaces it on SQLite. Parameters are written `:name` and are passed by position,
each once, in the order in which the statement first names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Literal

import msgspec

Dialect = Literal["sqlite", "postgres"]

_HEAD = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)\b")
_COMMENT = re.compile(r"--[^\n]*")
_MARK: Mapping[Dialect, str] = {"sqlite": "?", "postgres": "$"}


class Query(msgspec.Struct, frozen=True):
    """One statement with numbered parameters, and their names in that order."""

    sql: str
    params: tuple[str, ...]


def load_queries(dialect: Dialect) -> dict[str, Query]:
    """Return all statements for `dialect` by name; raises ValueError on a name given twice in the same kind of file."""
    folder = files("clawplane.store") / "sql"
    texts = {entry.name: entry.read_text() for entry in folder.iterdir() if entry.name.endswith(".sql")}
    shared = {name: text for name, text in texts.items() if name.count(".") == 1}
    special = {name: text for name, text in texts.items() if name.endswith(f".{dialect}.sql")}
    return _all_of(shared, dialect) | _all_of(special, dialect)


def _all_of(texts: Mapping[str, str], dialect: Dialect) -> dict[str, Query]:
    queries: dict[str, Query] = {}
    for file, text in sorted(texts.items()):
        for name, query in parse(text, dialect).items():
            if name in queries:
                raise ValueError(f"the statement {name} in {file} has a name that is taken")
            queries[name] = query
    return queries


def parse(text: str, dialect: Dialect) -> dict[str, Query]:
    """Return the statements of one file by name."""
    _, *parts = _HEAD.split(text)
    return {name: _query(body, dialect) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _query(body: str, dialect: Dialect) -> Query:
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"{_MARK[dialect]}{names.index(match[1]) + 1}"

    sql = _PARAMETER.sub(number, _COMMENT.sub("", body)).strip().rstrip(";")
    return Query(" ".join(sql.split()), tuple(names))
