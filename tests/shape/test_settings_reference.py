"""The reference of variables against what the code asks its environment for, names that are put together included."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clawplane.runner.host.agents.turn import settings_from
from clawplane.runner.host.poll_settings import poll_settings
from clawplane.runner.host.settings import host_settings
from clawplane.runner.host.shells import find_shell
from clawplane.settings import read_connection, runner_settings, serve_settings

PROJECT = Path(__file__).parent.parent.parent
PAGE = PROJECT / "docs" / "reference" / "settings.md"
TOKEN = "t" * 32


class Asked(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, held: Mapping[str, str]) -> None:
        super().__init__(held)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


READERS: dict[str, tuple[Callable[[Asked], object], dict[str, str]]] = {
    "a server": (lambda env: serve_settings(environment=env), {}),
    "a Task API": (lambda env: serve_settings(environment=env), {"WORKER_TOKEN": TOKEN}),
    "a runner": (lambda env: runner_settings(environment=env), {"CLAWPLANE_RUNNER_TOKEN": TOKEN}),
    "its host tasks": (lambda env: host_settings(env, None), {}),
    "its agents": (lambda env: settings_from(env, home=Path("/nowhere"), private=Path("/nowhere")), {}),
    "its shell": (find_shell, {}),
    "a worker": (lambda env: poll_settings(env, data=Path("/nowhere"), name="mac"), {"WORKER_TOKEN": TOKEN}),
    "the command line": (read_connection, {"CLAWPLANE_DATA": "/nowhere"}),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_variable_that_is_asked_for_is_in_the_reference(reader: str) -> None:
    read, held = READERS[reader]
    environment = Asked({"HOME": "/nowhere", **held})
    read(environment)
    assert len(environment.names) > 1
    assert sorted(environment.names - told()) == []


def test_every_name_of_ours_in_the_code_is_in_the_reference_but_for_the_mark_of_a_tasks_processes() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "src" / "clawplane").rglob("*.py"))
    named = set(re.findall(r'"((?:CLAWPLANE|MAC_WORKER)_[A-Z_]+)"', text))
    assert named - told() == {"CLAWPLANE_HOST_TASK"}


def test_the_reference_names_no_variable_that_the_code_does_not_know() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "src" / "clawplane").rglob("*.py"))
    made = {"CLAUDE_PATH", "CODEX_PATH", "GEMINI_PATH"}
    unknown = {name for name in told() - made if f'"{name.removesuffix("_PREVIOUS")}"' not in text}
    assert unknown == set()


def told() -> set[str]:
    """Return the variables that have a row."""
    return set(re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M))
