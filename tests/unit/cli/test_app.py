from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest

from clawplane.cli.app import COMMANDS, build_app

GROUPS = {
    "workers": ("push", "list", "show", "remove"),
    "runs": ("start", "list", "show", "logs", "results", "export", "abort", "rerun"),
    "task": (
        "run",
        "submit",
        "list",
        "show",
        "logs",
        "result",
        "cancel",
        "approve",
        "refuse",
        "retry",
        "explain",
        "tool-uses",
    ),
    "keys": ("create", "list", "revoke"),
    "exec": ("python", "shell", "node"),
    "session": (
        "create",
        "list",
        "show",
        "reset",
        "branch",
        "rollback",
        "sleep",
        "delete",
        "files",
        "upload",
        "download",
        "notebook",
    ),
}
ALIASES = {"server": "task-api", "reconciler": "worker"}
"""Other names of a command, which explains itself by the first."""
EVERY = [
    *((name,) for name in COMMANDS if name not in GROUPS),
    ("events", "trim"),
    *((group, name) for group, names in GROUPS.items() for name in names),
]


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_every_command_explains_itself_its_options_and_its_exit_codes(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    build_app(lazy=True)([*command, "--help"], result_action="return_value")
    text = capsys.readouterr().out
    named = tuple(ALIASES.get(word, word) for word in command)
    assert re.search(r"Example: .*clawplane " + " ".join(named), text) or command == ("keys", "list"), text
    assert "Exit codes: 0 done" in text
    for line in text.splitlines():
        option = re.match(r"│ [* ] +(?:[A-Z]+ )?(--[a-z-]+)", line)
        if option:
            words = re.sub(r"\[.*?\]|--[\w-]+|\b[A-Z_]+\b", "", line.strip("│ *"))
            assert re.search(r"[a-z]{3}", words), f"{' '.join(command)}: {option[1]} is not explained"


def test_the_help_names_every_command_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    build_app()([], result_action="return_value")
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"│ {name} +[A-Z]", text), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_every_format(shell: Literal["bash", "zsh", "fish"], tmp_path: Path) -> None:
    script = build_app().generate_completion(shell=shell)
    for name in (*COMMANDS, *GROUPS["runs"], "jsonl", "--follow"):
        assert name.removeprefix("--") in script
    if found := shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([found, "-n", str(tmp_path / "script")], check=True)


def test_bash_completes_commands_and_values(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(build_app().generate_completion(shell="bash"))
    program = """
    source "$1"
    COMP_WORDS=(clawplane runs export --format ""); COMP_CWORD=4; _clawplane; echo "${COMPREPLY[@]}"
    COMP_WORDS=(clawplane sel); COMP_CWORD=1; _clawplane; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", program, "bash", str(tmp_path / "script")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["csv json jsonl", "selftest"]


def test_installing_completion_writes_into_the_users_own_home_and_says_where(clawplane: Any, tmp_path: Path) -> None:
    done = clawplane("--install-completion", env={"SHELL": "/bin/bash"})
    assert done.returncode == 0, done.stderr
    (script,) = [path for path in tmp_path.rglob("clawplane") if path.is_file()]
    assert str(script) in done.stdout
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_a_shell_that_is_unknown_is_named_in_a_sentence(clawplane: Any) -> None:
    done = clawplane("--install-completion", env={"SHELL": "/bin/unknown-shell"})
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert "unexpectedly" not in done.stderr


def test_the_version_is_told_without_loading_the_command_line(clawplane: Any) -> None:
    done = clawplane("--version", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)
    assert "cyclopts" not in done.stderr


def test_a_command_loads_neither_the_servers_nor_another_command(clawplane: Any) -> None:
    loaded = clawplane("runs", "list", env={"PYTHONPROFILEIMPORTTIME": "1"}).stderr
    assert "clawplane.client.runs" in loaded
    for foreign in ("clawplane.cli.daemons", "clawplane.wiring", "uvicorn", "pygments", "rich.console"):
        assert foreign not in loaded, foreign
