"""`clawplane up --host-tasks` and the commands that people use: live output, exit codes, files, the trail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLAWPLANE = str(Path(sys.executable).with_name("clawplane"))


@pytest.fixture
def hosting(make_plane: Callable[..., Any]) -> Any:
    """Return a running clawplane that does host tasks."""
    plane = make_plane()
    plane.up("--host-tasks")
    return plane


def test_a_command_is_shown_live_and_ends_the_command_line_with_its_code(hosting: Any, tmp_path: Any) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = f"echo one; read word < {gate}; echo $word; echo wrong >&2; exit 7"
    with subprocess.Popen(
        [*hosting.prefix, CLAWPLANE, "task", "run", command],
        env=hosting.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"  # while the command still runs: nobody has opened the gate
        gate.write_text("two\n", encoding="utf-8")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (7, "two\n")
    assert "wrong" in err
    (task,) = hosting.json("task", "list")["list"]
    assert (task["status"], task["reason"]) == ("failed", "")
    again = hosting.cli("task", "result", check=False)
    assert (again.returncode, again.stdout) == (7, "one\ntwo\n")
    kinds = [event["type"] for event in hosting.json("events", "--task", task["id"])]
    assert kinds == ["task.created", "task.started", "task.failed"]
    assert hosting.cli("task", "logs").stdout.count("\n") == 3


def test_files_go_there_and_back_and_what_takes_too_long_is_ended(hosting: Any, tmp_path: Any) -> None:
    path = tmp_path / "note.txt"
    hosting.cli("task", "run", "-t", "file-write", str(path), "--content", "old words\n")
    hosting.cli("task", "run", "-t", "file-edit", str(path), "--old", "old", "--new", "new")
    assert path.read_text(encoding="utf-8") == "new words\n"
    assert hosting.cli("task", "run", "-t", "file-read", str(path)).stdout == "new words\n"
    assert hosting.cli("task", "run", "--timeout", "1", "sleep 60", check=False).returncode == 124


def test_a_task_waits_for_a_person_and_a_runner_and_says_so(hosting: Any) -> None:
    waits = hosting.cli("task", "submit", "--approval", "echo yes").stdout.strip()
    away = hosting.cli("task", "submit", "--runner", "elsewhere", "echo no").stdout.strip()
    assert hosting.json("task", "explain", waits)["code"] == "approval"
    assert "'elsewhere'" in hosting.cli("task", "explain", away).stdout
    hosting.cli("task", "approve", waits)
    assert hosting.cli("task", "result", waits, "--wait", "60").stdout == "yes\n"
    hosting.cli("task", "cancel", away)
    ended = hosting.cli("task", "result", away, check=False)
    assert ended.returncode == 125
    again = hosting.cli("task", "retry", waits).stdout.strip()
    hosting.cli("task", "approve", again, check=False)  # what was approved once may ask again
    assert hosting.cli("task", "result", again, "--wait", "60").stdout == "yes\n"
    (runner,) = hosting.json("runners")
    assert {"command", "files"} <= set(runner["host"]["takes"])


def test_without_host_tasks_no_shell_is_open(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    plane.up()
    task = plane.cli("task", "submit", "echo no").stdout.strip()
    why = plane.json("task", "explain", task)
    assert (why["code"], why["status"]) == ("no_runner", "pending")
    assert "--host-tasks" in why["hint"]
