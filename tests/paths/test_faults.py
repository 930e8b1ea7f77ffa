"""Kill, stop and cut the real processes: every accepted run ends once, every acknowledged row is there once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COUNT_TO = """
import time
from sdk import CoreSDK
n = CoreSDK.Parameter.get_input_json_dict()["n"]
for number in range(n):
    CoreSDK.Result.push_data({"number": number})
    if number == n // 2:
        print("half way", flush=True)
        time.sleep(CoreSDK.Parameter.get_input_json_dict().get("pause", 0))
"""
SCHEMA = {"properties": [{"name": "n", "type": "integer"}, {"name": "pause", "type": "number"}]}


@pytest.fixture
def parts(make_plane: Callable[..., Any]) -> Any:
    """A control plane and a runner, started apart so that each can be killed alone."""
    plane = make_plane()
    (plane.data / "runner-token").write_text("f" * 64)
    plane.serve = lambda: plane.spawn(
        "serve",
        "--port",
        str(plane.port),
        "--data",
        str(plane.data),
        "--runner-token-file",
        str(plane.data / "runner-token"),
        until="listens on",
    )
    plane.runner = lambda name="runner": plane.spawn(
        "runner",
        "--url",
        plane.url,
        "--data",
        str(plane.data / name),
        "--name",
        name,
        "--token-file",
        str(plane.data / "runner-token"),
        until="Linked",
    )
    return plane


def _until_log_says(plane: Any, slug: str, text: str) -> None:
    with plane.http() as http, http.stream("GET", f"/v1/runs/{slug}/log", params={"follow": "true"}) as log:
        for line in log.iter_lines():
            if text in line:
                return
    raise AssertionError(f"the log ended without {text!r}")


def _numbers(plane: Any, slug: str) -> list[int]:
    return [row["number"] for row in plane.rows(slug)]


def _ends(plane: Any, slug: str) -> list[str]:
    with plane.http() as http:
        subtasks = http.get(f"/v1/runs/{slug}/subtasks").json()["data"]["list"]
    return [attempt["end"] for subtask in subtasks for attempt in subtask["attempts"]]


def test_a_run_waits_for_a_runner_and_is_not_lost_when_the_server_dies_after_the_submit(parts: Any) -> None:
    serve = parts.serve()
    runner = parts.runner()
    worker = parts.push("count", COUNT_TO, schema=SCHEMA)
    runner.kill()
    runner.wait()
    slug = parts.start(worker, n=10)
    serve.kill()
    serve.wait()
    parts.serve()
    parts.runner()
    run = parts.wait(slug)
    assert (run["status"], run["results"]) == ("succeeded", 10)


def test_a_server_killed_between_row_batches_gets_every_row_once_after_its_restart(parts: Any) -> None:
    serve = parts.serve()
    parts.runner()
    worker = parts.push("count", COUNT_TO, schema=SCHEMA)
    slug = parts.start(worker, n=2000, pause=2)
    _until_log_says(parts, slug, "half way")
    serve.kill()
    serve.wait()
    parts.serve()
    run = parts.wait(slug)
    assert (run["status"], run["results"]) == ("succeeded", 2000)
    assert _numbers(parts, slug) == list(range(2000))
    assert _ends(parts, slug) == ["finished"]


def test_a_runner_killed_in_the_middle_is_replaced_within_fifteen_seconds_and_rows_are_there_once(parts: Any) -> None:
    parts.serve()
    first = parts.runner("first")
    worker = parts.push("count", COUNT_TO, schema=SCHEMA)
    slug = parts.start(worker, n=400, pause=3)
    _until_log_says(parts, slug, "half way")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    parts.runner("second")
    run = parts.wait(slug)
    assert run["status"] == "succeeded"
    assert _numbers(parts, slug) == list(range(400))
    assert _ends(parts, slug) == ["runner_lost", "finished"]
    with parts.http() as http:
        attempts = http.get(f"/v1/runs/{slug}/subtasks").json()["data"]["list"][0]["attempts"]
    assert attempts[1]["offered_at"] - attempts[0]["confirmed_at"] < 18_000
    assert _guests_of(parts.data / "first") == []


def test_a_runner_that_was_stopped_and_comes_back_late_is_refused_and_kills_what_it_ran(parts: Any) -> None:
    parts.serve()
    first = parts.runner("first")
    worker = parts.push("count", COUNT_TO, schema=SCHEMA)
    slug = parts.start(worker, n=100, pause=4)
    _until_log_says(parts, slug, "half way")
    os.kill(first.pid, signal.SIGSTOP)
    parts.runner("second")
    run = parts.wait(slug)
    os.kill(first.pid, signal.SIGCONT)
    assert run["status"] == "succeeded"
    assert _numbers(parts, slug) == list(range(100))
    again = parts.run(worker, n=5)
    assert again["status"] == "succeeded"
    assert _ends(parts, slug) == ["runner_lost", "finished"]


def test_a_sandbox_killed_from_outside_is_reported_as_killed_by_a_signal(parts: Any) -> None:
    parts.serve()
    parts.runner()
    worker = parts.push("count", COUNT_TO, schema=SCHEMA)
    slug = parts.start(worker, n=10, pause=100)
    _until_log_says(parts, slug, "half way")
    guests = _guests_of(parts.data)
    assert guests
    for pid in guests:
        with contextlib.suppress(ProcessLookupError):  # the first takes the others along
            os.kill(pid, signal.SIGKILL)
    run = parts.wait(slug)
    assert run["status"] == "failed"
    assert "SIGKILL" in run["err_msg"]


def _guests_of(data: Path) -> list[int]:
    """Return the processes that live on file systems made of a runner's directory, which only its guests do."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                mounts = (entry / "mountinfo").read_text()
            except OSError:
                continue
            if str(data) in mounts:
                found.append(int(entry.name))
    return found
