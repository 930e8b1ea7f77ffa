from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def left_behind(server: Any, tmp_path: Path) -> Path:
    """What a server of this user left for its command line."""
    file = tmp_path / "state" / "clawplane" / "connection.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"url": server.url, "key": "local-key"}))
    server.answers = {"GET /api/v2/workers": {"scraper": []}}
    return file


def test_on_one_machine_nothing_needs_to_be_set(clawplane: Any, server: Any, left_behind: Path) -> None:
    assert clawplane("workers", "list", env={"CLAWPLANE_URL": ""}).returncode == 0
    assert server.keys == ["Bearer local-key"]


def test_the_variables_win_over_what_a_server_left(clawplane: Any, server: Any, left_behind: Path) -> None:
    clawplane("workers", "list", env={"CLAWPLANE_API_KEY": "given-key"})
    assert server.keys == ["Bearer given-key"]


def test_the_local_key_is_never_sent_to_another_server(clawplane: Any, server: Any, left_behind: Path) -> None:
    left_behind.write_text(json.dumps({"url": "http://127.0.0.1:1", "key": "local-key"}))
    clawplane("workers", "list")
    assert server.keys == [None]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 1}', '{"url": "file:///etc", "key": "k"}', "\x00"])
def test_a_file_that_was_left_damaged_is_passed_over(
    clawplane: Any, server: Any, left_behind: Path, content: str
) -> None:
    left_behind.write_text(content)
    assert clawplane("workers", "list").returncode == 0
    assert server.keys == [None]
