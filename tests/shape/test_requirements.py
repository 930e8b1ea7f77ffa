"""The table of requirements names tests that exist, and leaves no number out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
TABLE = PROJECT / "docs" / "host-tasks-requirements.md"
ROW = re.compile(r"^\| ([RLP]\d[^|]*) \|[^|]*\| (.+) \|$", re.MULTILINE)
SHORT = re.compile(r"^\| ([\w, ]+) \| `(tests/[\w/.]+)`(?: (test_\w+\.py))?", re.MULTILINE)
NAMED = re.compile(r"\b(\w+)::(test_\w+)")


def rows() -> dict[str, str]:
    found: dict[str, str] = {}
    for match in ROW.finditer(TABLE.read_text()):
        for number in match[1].split(", "):
            assert number not in found, f"{number} is there twice"
            found[number] = match[2]
    return found


def files() -> dict[str, Path]:
    """Return the file behind each short name."""
    found = {}
    for match in SHORT.finditer(TABLE.read_text()):
        for name in match[1].split(", "):
            found[name] = PROJECT / match[2] / (match[3] or "").replace("NAME", name)
    found["sending"] = PROJECT / "tests/unit/callbacks/test_delivery.py"
    return found


def names_in(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_no_requirement_and_no_promise_is_left_out() -> None:
    wanted = [f"R{n}" for n in range(1, 56)] + [f"L{n}" for n in range(1, 8)] + [f"P{n}" for n in range(1, 51)]
    assert sorted(set(wanted) - set(rows())) == []


def test_every_requirement_is_proven_by_a_test_that_exists() -> None:
    known = files()
    missing = []
    for number, proof in rows().items():
        named = NAMED.findall(proof)
        if number.startswith(("R", "L")):
            assert named, f"{number} names no test"
        for short, test in named:
            if test not in names_in(known[short]):
                missing.append(f"{number}: {short}::{test}")
    assert missing == []


def test_what_is_not_proven_by_a_test_is_in_a_file_that_exists() -> None:
    for number, proof in rows().items():
        for name in re.findall(r"`((?:docs|bench|tests)/[\w/.-]*)`", proof):
            assert (PROJECT / name).exists(), f"{number}: {name}"
