from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

from played import SESSION, plain, refused  # noqa: E402 - found through the line above

FILE = {"path": "d/a.csv", "kind": "file", "size": 12, "modified_at": 1_000}


def test_a_new_session_s_id_is_all_that_is_written(clawplane: Any, server: Any) -> None:
    server.answers = {"POST /v1/sessions": plain(SESSION, 201)}
    done = clawplane("session", "create", "tries", "--profile", "bare")
    assert (done.returncode, done.stdout, done.stderr) == (0, "01S\n", "")
    assert json.loads(clawplane("session", "create", "--json").stdout)["id"] == "01S"


def test_the_list_leaves_out_what_has_ended_unless_asked(clawplane: Any, server: Any) -> None:
    server.answers = {"GET /v1/sessions": plain({"count": 1, "sessions": [SESSION]})}
    assert "01S" in clawplane("session", "list").stdout
    assert "01S" in clawplane("session", "list", "--all").stdout
    assert server.seen == ["GET /v1/sessions?offset=1&limit=20&state=live", "GET /v1/sessions?offset=1&limit=20"]


@pytest.mark.parametrize(
    ("arguments", "path", "said"),
    [
        (("show", "01S"), "GET /v1/sessions/01S", "01S running, 3 execs"),
        (("reset", "01S"), "POST /v1/sessions/01S/reset", "01S running"),
        (("rollback", "01S", "2"), "POST /v1/sessions/01S/rollback", "01S running"),
        (("sleep", "01S", "--save"), "POST /v1/sessions/01S/sleep", "01S running"),
        (("branch", "01S", "--name", "copy"), "POST /v1/sessions/01S/branch", "01S\n"),
    ],
)
def test_each_command_asks_for_one_thing_and_says_how_the_session_stands(
    clawplane: Any, server: Any, arguments: tuple[str, ...], path: str, said: str
) -> None:
    server.answers = {path: plain(SESSION)}
    done = clawplane("session", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)
    assert server.seen == [path]
    assert json.loads(clawplane("session", *arguments, "--json").stdout) == SESSION


def test_deleting_says_so(clawplane: Any, server: Any) -> None:
    server.answers = {"DELETE /v1/sessions/01S": plain(SESSION | {"state": "ended"})}
    assert clawplane("session", "delete", "01S").stderr == "01S ended\n"


def test_files_are_listed_with_their_sizes(clawplane: Any, server: Any) -> None:
    server.answers = {"GET /v1/sessions/01S/files": plain({"files": [FILE], "more": True})}
    done = clawplane("session", "files", "01S", "d", "-r")
    assert "d/a.csv" in done.stdout
    assert "12 B" in done.stdout
    assert "There are more" in done.stderr
    assert server.seen == ["GET /v1/sessions/01S/files?path=d&recursive=true&limit=10000"]


def test_a_download_is_a_file_of_the_same_name_or_goes_to_standard_output(
    clawplane: Any, server: Any, tmp_path: Path
) -> None:
    server.answers = {
        "GET /v1/sessions/01S/files/content": plain(b"a,b\n"),
        "GET /v1/sessions/01S/archive": plain(b"PK"),
    }
    assert clawplane("session", "download", "01S", "d/a.csv").returncode == 0
    assert clawplane("session", "download", "01S").returncode == 0
    assert ((tmp_path / "a.csv").read_bytes(), (tmp_path / "01S.zip").read_bytes()) == (b"a,b\n", b"PK")
    assert clawplane("session", "download", "01S", "d/a.csv", "--output", "-").stdout == "a,b\n"


def test_a_download_that_is_refused_leaves_no_file(clawplane: Any, server: Any, tmp_path: Path) -> None:
    server.answers = {"GET /v1/sessions/01S/files/content": refused(404, "not_found", "There is no such file.")}
    done = clawplane("session", "download", "01S", "nowhere.csv")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: There is no such file.")
    assert list(tmp_path.glob("*nowhere*")) == []


def test_only_files_are_uploaded(clawplane: Any, server: Any, tmp_path: Path) -> None:
    done = clawplane("session", "upload", "01S", str(tmp_path))
    assert done.returncode == 1
    assert "is no file" in done.stderr
    assert server.seen == []


def test_a_notebook_is_json_in_a_file_or_on_standard_output(clawplane: Any, server: Any, tmp_path: Path) -> None:
    book = {"nbformat": 4, "cells": [{"source": "é"}]}
    server.answers = {"GET /v1/sessions/01S/notebook": plain(book)}
    assert json.loads(clawplane("session", "notebook", "01S").stdout) == book
    assert "1 cells" in clawplane("session", "notebook", "01S", "--output", "b.ipynb").stderr
    assert json.loads((tmp_path / "b.ipynb").read_text()) == book


def test_a_session_that_does_not_exist_is_named(clawplane: Any, server: Any) -> None:
    server.answers = {"GET /v1/sessions/nobody": refused(404, "not_found", "session_id: there is no session 'nobody'.")}
    done = clawplane("session", "show", "nobody")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: session_id: there is no session 'nobody'.")
