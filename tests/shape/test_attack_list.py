"""The attack list is whole: each item has its row, names tests that exist or says why not, and the selftest agrees."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from clawplane.cli.live_attacks.running import live_attacks
from clawplane.sandbox.selftest.running import _ELSEWHERE, attacks

PROJECT = Path(__file__).resolve().parents[2]
TESTS = PROJECT / "tests"
SOURCE = PROJECT / "src" / "clawplane"
ITEMS = range(1, 71)
ROW = re.compile(r"^\| (\d+) \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)
NAMED = re.compile(r"`((?:[\w-]+/)*test_\w+)(?:::(test_\w+))?`")
WITHOUT_A_TEST = {70}
"""The only items that no test tries."""
WRITTEN_BY_THE_HOST = {"sandbox/request.py"}
"""What is read there is what the host wrote, and it is read inside."""
READS_CODE = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def rows() -> dict[int, tuple[str, str, str, str]]:
    found: dict[int, tuple[str, str, str, str]] = {}
    for match in ROW.finditer((TESTS / "attacks" / "README.md").read_text()):
        number = int(match[1])
        assert number not in found, f"{number} is there twice"
        found[number] = tuple(part.strip() for part in match.groups()[1:])  # type: ignore[assignment]
    return found


def file_of(name: str) -> Path:
    """Return the file that a row means: below tests/attacks, or below tests."""
    here = TESTS / "attacks" / f"{name}.py"
    return here if here.exists() else TESTS / f"{name}.py"


def names_in(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_no_item_of_the_attack_list_is_left_out() -> None:
    assert sorted(rows()) == list(ITEMS)


def test_every_test_that_the_attack_list_names_exists() -> None:
    missing = []
    for number, (_, *proofs, _why) in rows().items():
        for name, test in NAMED.findall(" ".join(proofs)):
            file = file_of(name)
            if not file.exists() or (test and test not in names_in(file)):
                missing.append(f"{number}: {name}::{test}")
    assert missing == []


def test_an_item_names_a_test_or_says_why_there_is_none() -> None:
    untested = {number for number, (_, *proofs, _why) in rows().items() if not NAMED.search(" ".join(proofs))}
    assert untested == WITHOUT_A_TEST
    for number in untested:
        assert len(rows()[number][3]) > 20, f"{number} does not say why"


def test_every_name_in_the_columns_of_tests_is_one_that_is_checked() -> None:
    unread = []
    for number, (_, *proofs, _why) in rows().items():
        for name in re.findall(r"`([^`]+)`", " ".join(proofs)):
            if not NAMED.fullmatch(f"`{name}`") and name != "pip":
                unread.append(f"{number}: {name}")
    assert unread == []


def test_every_test_of_the_attacks_on_sessions_is_in_the_list() -> None:
    text = (TESTS / "attacks" / "README.md").read_text()
    assert [path.stem for path in sorted((TESTS / "attacks").rglob("test_*.py")) if path.stem not in text] == []


def test_the_selftest_knows_every_item_and_says_of_the_rest_where_it_is_tried() -> None:
    tried = {each.number for each in attacks("/canary")}
    elsewhere = {each.number: each.where for each in _ELSEWHERE}
    assert sorted(tried | elsewhere.keys()) == list(ITEMS)
    assert tried & elsewhere.keys() == set()
    own = {number for number, where in elsewhere.items() if where.startswith("`clawplane selftest`")}
    assert own == {each.number for each in live_attacks()}
    assert own & WITHOUT_A_TEST == set()
    named = {number for number, (_, *proofs, _why) in rows().items() if NAMED.search(" ".join(proofs))}
    assert own <= named


def test_the_printed_selftest_is_the_one_that_runs() -> None:
    printed = re.findall(
        r"^(?:ok|-|BROKEN) +(\d+)  (.*?): ", (PROJECT / "docs" / "selftest.md").read_text(), re.MULTILINE
    )
    live = live_attacks()
    numbers = {each.number for each in live}
    nowhere = [each for each in _ELSEWHERE if each.number not in numbers]
    wanted = [(each.number, each.title) for each in [*attacks("/canary"), *live, *nowhere]]
    assert sorted((int(number), title) for number, title in printed) == sorted(wanted)


def test_nothing_on_the_host_reads_pickles() -> None:
    """61: what a guest wrote is never unpickled, or loaded as code, by the runner or the control plane."""
    guilty = []
    for path in sorted(SOURCE.rglob("*.py")):
        if "inside" in path.parts or str(path.relative_to(SOURCE)) in WRITTEN_BY_THE_HOST:
            continue  # runs beside the guest's own code
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            guilty += [f"{path.relative_to(SOURCE)}: {name}" for name in names if name.partition(".")[0] in READS_CODE]
    assert guilty == []
