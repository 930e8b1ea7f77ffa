"""Kill, stop and cut the real processes: every accepted run ends once, every acknowledged row is there once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
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
        time.sleep(max(0, CoreSDK.Parameter.get_input_json_dict().get("until", 0) - time.time()))
"""
SCHEMA = {
    "properties": [{"name": "n", "type": "integer"}, *({"name": each, "type": "number"} for each in ("pause", "until"))]
}


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
    plane.runner = lambda name="runner", *more: plane.spawn(
        "runner",
        "--url",
        plane.url,
        "--data",
        str(plane.data / name),
        "--name",
        name,
        "--token-file",
        str(plane.data / "runner-token"),
        *more,
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


def test_runners_killed_or_stopped_in_the_middle_are_replaced_within_fifteen_seconds_and_rows_are_there_once(
    parts: Any,
) -> None:
    """The stopped one comes back late, is refused, and goes on as a runner."""
    parts.serve()
    stopped = parts.runner("stopped", "--slots", "1")
    worker = parts.push("count", COUNT_TO, schema=SCHEMA)
    until = time.time() + 20  # no longer than until the leases have run out, so that nobody waits for it again
    slugs = [parts.start(worker, n=100, until=until)]
    _until_log_says(parts, slugs[0], "half way")
    killed = parts.runner("killed", "--slots", "1")
    slugs.append(parts.start(worker, n=400, until=until))
    _until_log_says(parts, slugs[1], "half way")
    gone_at = time.time() * 1000
    os.kill(stopped.pid, signal.SIGSTOP)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    parts.runner("second")
    runs = [parts.wait(slug) for slug in slugs]
    os.kill(stopped.pid, signal.SIGCONT)
    assert [run["status"] for run in runs] == ["succeeded", "succeeded"]
    assert [_numbers(parts, slug) for slug in slugs] == [list(range(100)), list(range(400))]
    again = parts.run(worker, n=5)
    assert again["status"] == "succeeded"
    for slug in slugs:
        assert _ends(parts, slug) == ["runner_lost", "finished"]
        with parts.http() as http:
            attempts = http.get(f"/v1/runs/{slug}/subtasks").json()["data"]["list"][0]["attempts"]
        assert attempts[1]["offered_at"] - gone_at < 15_000
    assert _guests_of(parts.data / "killed") == []


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
