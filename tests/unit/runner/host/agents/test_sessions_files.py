from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pytest

from clawplane.runner.host.agents.sessions_files import Found, claude_session, codex_session, gemini_session

ID = "11111111-2222-4333-8444-555555555555"
NEXT = "11111111-9999-4333-8444-555555555555"


def transcript(projects: Path, cwd: Path, id_: str, *, at: int = 0) -> Path:
    directory = projects / "".join(each if each.isalnum() and each.isascii() else "-" for each in str(cwd))
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{id_}.jsonl"
    file.write_text('{"type":"mode"}\nno json\n' + json.dumps({"type": "user", "cwd": str(cwd)}) + "\n")
    os.utime(file, (at, at))
    return file


def test_an_exact_id_is_found_in_any_project_with_its_directory(tmp_path) -> None:
    cwd = tmp_path / "a.b c"
    cwd.mkdir()
    transcript(tmp_path / "projects", cwd, ID)
    assert claude_session(tmp_path / "projects", ID) == Found(ID, str(cwd))


def test_a_directory_that_is_gone_is_not_named(tmp_path) -> None:
    transcript(tmp_path / "projects", tmp_path / "gone", ID)
    assert claude_session(tmp_path / "projects", ID) == Found(ID, None)


def test_of_several_that_start_so_the_newest_is_taken(tmp_path) -> None:
    transcript(tmp_path / "projects", tmp_path, NEXT, at=5)
    transcript(tmp_path / "projects", tmp_path / "other", ID, at=9)
    found = claude_session(tmp_path / "projects", "11111111", prefix=True)
    assert found is not None
    assert found.id == ID


def test_an_id_of_full_length_is_no_prefix(tmp_path) -> None:
    transcript(tmp_path / "projects", tmp_path, ID)
    assert claude_session(tmp_path / "projects", ID[:32], prefix=True) is None


@pytest.mark.parametrize("bad", ["", "../x", "*", "a/b", "-a", "[1]"])
def test_what_is_no_id_is_never_looked_for(tmp_path, bad: str) -> None:
    transcript(tmp_path / "projects", tmp_path, ID)
    (tmp_path / "x.jsonl").touch()
    assert claude_session(tmp_path / "projects", bad, prefix=True) is None
    assert claude_session(tmp_path / "projects", bad) is None
    assert codex_session(tmp_path, bad, date(2026, 1, 1), prefix=True) is None
    assert gemini_session(tmp_path, bad) is None


def rollout(sessions: Path, day: str, id_: str, cwd: str) -> None:
    (sessions / day).mkdir(parents=True, exist_ok=True)
    said = {"type": "session_meta", "payload": {"id": id_, "cwd": cwd}}
    (sessions / day / f"rollout-2026-01-02T03-04-05-{id_}.jsonl").write_text(json.dumps(said) + "\n")


def test_codex_sessions_of_thirty_days_are_found_by_id_and_by_prefix(tmp_path) -> None:
    rollout(tmp_path, "2026/01/02", ID, str(tmp_path))
    assert codex_session(tmp_path, ID, date(2026, 1, 31)) == Found(ID, str(tmp_path))
    assert codex_session(tmp_path, "11111111-22", date(2026, 1, 31), prefix=True) == Found(ID, str(tmp_path))
    assert codex_session(tmp_path, "11111111-22", date(2026, 1, 31)) is None
    assert codex_session(tmp_path, ID, date(2026, 2, 2)) is None


def test_the_newest_day_of_codex_goes_first(tmp_path) -> None:
    rollout(tmp_path, "2026/01/02", ID, "/")
    rollout(tmp_path, "2026/01/03", NEXT, "/")
    assert codex_session(tmp_path, "11111111", date(2026, 1, 3), prefix=True) == Found(NEXT, "/")


def test_a_gemini_conversation_is_found_with_its_directory(tmp_path) -> None:
    chats = tmp_path / "tmp" / "p" / "chats"
    chats.mkdir(parents=True)
    (chats / f"session-2026-01-02T03-04-{ID[:8]}.jsonl").touch()
    (chats.parent / ".project_root").write_text(f"{tmp_path}\n")
    assert gemini_session(tmp_path, ID) == Found(ID, str(tmp_path))
    assert gemini_session(tmp_path, "22222222-0000") is None
