from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clawplane.cli import output
from clawplane.cli.output import log_text, moment, plain, show_table, size
from clawplane.cli.progress import Lines, progress


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (5 * 10**13, "50.0 TB")],
)
def test_a_size_is_written_in_the_unit_people_use(count: int, text: str) -> None:
    assert size(count) == text


def test_text_on_one_line_keeps_letters_of_every_script_and_no_control_character() -> None:
    assert plain("a\x1b[2J\nb\u202e 東京") == "a [2J b  東京"
    assert plain(None) == ""


def test_log_text_keeps_its_lines_and_shows_control_characters_as_escapes() -> None:
    assert log_text("a\tb\n\x1b[31m\u202e\x00") == "a\tb\n\\x1b[31m\\u{202e}\\x00"


@pytest.mark.parametrize(
    ("at", "text"),
    [(None, ""), (0, ""), (1_700_000_000_999, "2023-11-14 22:13:20"), (10**30, "9999-12-31 23:59:59")],
)
def test_a_moment_is_written_in_utc_and_one_without_a_date_as_the_last_that_has_one(at: int | None, text: str) -> None:
    assert moment(at) == text


def test_a_table_in_a_pipe_has_one_line_a_row_however_wide(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["A", "B"], [["x" * 500, "[bold]y"]], empty="none")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split() == ["x" * 500, "[bold]y"]


def test_a_table_without_rows_is_a_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["A"], [], empty="There is nothing.")
    assert capsys.readouterr() == ("", "There is nothing.\n")


def test_without_a_terminal_each_phase_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Uploading", quiet=False) as bar:
        assert isinstance(bar, Lines)
        for count in range(100):
            bar.update("Uploading", f"{count} bytes")
        bar.update("Building", "uv says something")
        bar.note("The connection was lost.")
    assert capsys.readouterr().err == "Uploading ...\nBuilding ...\nThe connection was lost.\n"


def test_a_machine_is_told_nothing_but_what_cannot_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Uploading", quiet=True) as bar:
        bar.update("Building", "x")
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "colours"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_and_for_those_who_want_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], colours: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert output.coloured(Terminal()) is colours
    assert output.coloured(io.StringIO()) is False


def test_on_a_terminal_a_line_moves_on_stderr_and_stdout_stays_clean(
    environment: dict[str, str], server: Any, tmp_path: Path
) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "main.py").write_text("x")
    server.answers = {"POST /v1/workers": VERSION}
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "clawplane", "workers", "push", "w", "--no-wait"],
        env=environment | {"TERM": "xterm"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=side,
        text=True,
    )
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # EIO: the other side is closed
            break
        shown += part
    os.close(terminal)
    written, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert written == "local~w v1.0.0 building\n"
    assert b"Uploading w" in shown


VERSION = {
    "worker": "01S",
    "path": "local~w",
    "version": "v1.0.0",
    "language": "python",
    "status": "building",
    "package_size": 3,
    "diagnostics": [
        {"code": "missing_readme", "severity": "warn", "message": "No.", "file": "README.md", "line": 3, "hint": ""}
    ],
    "build_error": "",
    "unchanged": False,
}


def test_findings_of_a_push_are_told_beside_its_result(clawplane: Any, server: Any, tmp_path: Path) -> None:
    (tmp_path / "w.zip").write_bytes(b"PK")
    server.answers = {"POST /v1/workers": VERSION | {"unchanged": True}}
    done = clawplane("workers", "push", "w.zip", "--no-wait")
    assert done.stdout == "local~w v1.0.0 building\n"
    assert "warn: README.md:3: No. [missing_readme]\nNothing has changed" in done.stderr
    machine = clawplane("workers", "push", "w.zip", "--no-wait", "--json")
    assert json.loads(machine.stdout)["diagnostics"] == VERSION["diagnostics"]
    assert machine.stderr == ""
