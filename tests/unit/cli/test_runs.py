from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RUN = {"slug": "01R", "scraper_title": "W", "version": "v1", "status": "succeeded", "results": 1, "duration": 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--input", "{"), "The input is not JSON"),
        (("--input", "[1]"), "not a JSON object"),
        (("--input", ""), "The input is not JSON"),
        (("--input", "[" * 100_000), "nested too deep"),
        (("--input", "{}", "--input-file", "x"), "exclude each other"),
        (("--input-file", "nowhere.json"), "nowhere.json: No such file or directory."),
        (("--input-file", "."), "Is a directory."),
        (("--input-file", "latin1.json"), "latin1.json is not UTF-8."),
    ],
)
def test_an_input_that_cannot_be_sent_is_refused_before_anything_is_asked(
    clawplane: Any, server: Any, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "latin1.json").write_bytes('{"a": "ü"}'.encode("latin-1"))
    done = clawplane("runs", "start", "w", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert server.seen == []


def test_an_input_is_read_from_standard_input_with_or_without_a_byte_order_mark(clawplane: Any, server: Any) -> None:
    server.answers = {"POST /api/v2/workers/w/runs": {"run_slug": "01R"}}
    done = clawplane("runs", "start", "w", "--input-file", "-", "--no-wait", input="\ufeff{}")
    assert (done.returncode, done.stdout) == (0, "01R\n")


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("aborting", 1)])
def test_the_exit_code_says_how_a_run_that_was_waited_for_ended(
    clawplane: Any, server: Any, status: str, code: int
) -> None:
    server.answers = {
        "POST /api/v2/workers/w/runs": {"run_slug": "01R"},
        "GET /v1/runs/01R/log": _log({"seq": 1, "type": 4, "content": "a\nb", "timestamp": 3_723_004}),
        "GET /api/v2/worker-runs/01R": RUN | {"status": status} | ({"err_msg": "why"} if status == "failed" else {}),
    }
    done = clawplane("runs", "start", "w", "--logs")
    assert done.returncode == code
    assert done.stdout.startswith("01:02:03.004 error a\nb\n01R " + status)
    assert ("why" in done.stdout) is (status == "failed")
    machine = clawplane("runs", "start", "w", "--json")
    assert json.loads(machine.stdout)["status"] == status
    assert machine.stderr == ""


def _log(*entries: Any) -> Any:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        after = int(handler.path.partition("after=")[2].partition("&")[0])
        for entry in entries:
            if entry["seq"] > after:
                handler.wfile.write(json.dumps(entry).encode() + b"\n")

    return answer


def test_rows_are_shown_under_their_labels_whatever_they_hold(clawplane: Any, server: Any) -> None:
    server.answers = {
        "GET /api/v2/worker-runs/last/result": {
            "count": 9,
            "headers": [{"key": "a", "label": "Price"}, {"key": "b", "label": ""}],
            "list": [{"a": 1.5, "b": None}, {"b": [1, {"c": "x"}]}, "no object"],
        }
    }
    done = clawplane("runs", "results")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["Price", "b"], ["1.5"], ['[1,{"c":"x"}]']]
    assert done.stderr == "3 of 9 rows\n"
