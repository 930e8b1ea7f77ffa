"""The shape of the tree: imports, sizes, links, promises of names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "src" / "clawplane"
LONGEST_FILE = 420
TABLES = {"sandbox/syscall_table.py"}
"""Files that are one table with a reason a line."""
LONGEST_FUNCTION = 75


def _modules() -> Iterator[Path]:
    for path in sorted(SOURCE.rglob("*.py")):
        if "templates" not in path.parts and not path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
            yield path


def test_every_import_contract_holds() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter)], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_file_has_grown_beyond_its_room() -> None:
    long = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in _modules()}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FILE and name not in TABLES} == {}


def test_no_function_has_grown_beyond_its_room() -> None:
    long = []
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(SOURCE)}:{node.name} {lines}")
    assert long == []


def test_no_module_is_named_after_nothing() -> None:
    empty = re.compile(r"(^|_)(util|utils|helper|helpers|common|manager|service|misc)(_|$)")
    assert [str(path) for path in _modules() if empty.search(path.stem)] == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(SOURCE))
        for path in _modules()
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


def test_what_runs_beside_user_code_imports_the_standard_library_and_the_sandbox_only() -> None:
    foreign = []
    for path in sorted((SOURCE / "sandbox").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            foreign += [
                f"{path.name}: {name}"
                for name in names
                if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("clawplane.sandbox")
            ]
    assert foreign == []


@pytest.mark.parametrize("page", [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_every_link_of_the_docs_leads_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")) and not (page.parent / target).exists():
            dead.append(target)
    assert dead == []


def test_every_test_that_the_docs_name_exists() -> None:
    named: set[str] = set()
    for page in (PROJECT / "docs").rglob("*.md"):
        named.update(re.findall(r"`(tests/[\w/.]+)`", page.read_text()))
    assert sorted(name for name in named if not (PROJECT / name).exists()) == []


def test_the_lock_files_name_no_index_and_carry_hashes() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (PROJECT / name).read_text()
        assert "http" not in re.sub(r"^\s*#.*$|^http\S+==\S+", "", text, flags=re.M).replace("httpcore", "").replace(
            "httpx", ""
        ).replace("httptools", ""), name
        assert text.count("--hash=sha256:") > 100


def test_the_reference_is_what_the_code_generates() -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "reference.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
