from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from clawplane import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Put the root logger back."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before
    for name in ("httpx", "httpcore", "websockets", "asyncio", "hpack", "uvicorn"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_record_is_one_line_with_its_time_in_utc_and_the_daemons_name(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", name="serve")
    logging.getLogger("clawplane.x").info("ready")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    serve clawplane.x: ready\n", capsys.readouterr().err
    )


def test_control_characters_of_a_stranger_reach_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", name="serve")
    logging.getLogger("clawplane.x").info("path %s", "\x1b[2J\r\u202e")
    assert not set("\x1b\r\u202e") & set(capsys.readouterr().err)


def test_nothing_that_is_logged_looks_like_another_record(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", name="serve")
    forged = "2026-01-01T00:00:00.000Z ERROR   serve clawplane.x: forged"
    logging.getLogger("clawplane.x").info("path %s", f"/a\n{forged}")
    try:
        raise ValueError(f"no\n{forged}")
    except ValueError:
        logging.getLogger("clawplane.x").exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert sum(forged in line for line in lines) == 2
    assert [line for line in lines if line.startswith(forged)] == []
    assert [line[:2] == "  " for line in lines] == [False, False, *[True] * (len(lines) - 2)]


def test_a_level_hides_what_is_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", name="serve")
    logging.getLogger("clawplane.x").info("hidden")
    logging.getLogger("clawplane.x").warning("shown")
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()] == ["shown"]


def test_libraries_are_heard_from_a_warning_on_and_wholly_never_below_the_level(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("debug", name="serve")
    logging.getLogger("httpx").info("a request with an address")
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("websockets.server").warning("odd")
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()] == ["odd"]
