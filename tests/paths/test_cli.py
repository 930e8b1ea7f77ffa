"""The command line in the hands of a person: push a directory, watch, read, export, and lose the server meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawplane.client.packing import package_files

WORKER = """
import time
from sdk import CoreSDK
given = CoreSDK.Parameter.get_input_json_dict()
for number in range(given["n"]):
    CoreSDK.Result.push_data({"number": number, "text": "grüße"})
print("half way", flush=True)
time.sleep(given.get("pause", 0))
print("the end", flush=True)
"""
SCHEMA = {"properties": [{"name": "n", "type": "integer", "default": 2}, {"name": "pause", "type": "number"}]}


@pytest.fixture(scope="module")
def worker(plane: Any) -> str:
    return str(plane.push("by-hand", WORKER, schema=SCHEMA))


def test_a_directory_is_scaffolded_pushed_run_and_its_rows_are_exported_without_a_word_on_stdout_too_many(
    plane: Any, tmp_path: Path
) -> None:
    def clawplane(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clawplane", *arguments]
        return subprocess.run(
            command, env=plane.environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True
        )

    assert "wrote" in clawplane("init", "python", "prices").stderr
    (tmp_path / "prices" / "notes.log").write_text("left out")
    assert Path("notes.log") not in set(package_files(tmp_path / "prices"))
    pushed = clawplane("workers", "push", "prices")
    assert pushed.stdout == "local~prices v1.0.1 ready\n"
    assert [line for line in pushed.stderr.splitlines() if line.endswith(" ...")] == [
        "Reading prices ...",
        "Packing prices ...",
        "Uploading prices ...",
        "Building ...",
    ]
    again = clawplane("workers", "push", "prices")
    assert "Nothing has changed" in again.stderr
    run = clawplane("runs", "start", "local~prices", "--logs")
    assert "SYSTEM: " in run.stdout
    assert "succeeded" in run.stdout.splitlines()[-1]
    exported = clawplane("runs", "export", "--output", "rows.csv")
    assert exported.stdout == ""
    assert (tmp_path / "rows.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert str((tmp_path / "rows.csv").stat().st_size) in exported.stderr
    assert "local~prices" in clawplane("workers", "list").stdout
    clawplane("workers", "remove", "local~prices")
    assert "local~prices" not in clawplane("workers", "list").stdout


def test_a_run_is_found_again_in_every_list_and_run_again(plane: Any, worker: str) -> None:
    slug = plane.run(worker, n=3)["slug"]
    listed = plane.json("runs", "list", "--worker", worker, "--status", "succeeded")
    assert slug in [run["slug"] for run in listed["list"]]
    assert slug in plane.cli("runs", "list").stdout
    shown = plane.json("runs", "show", slug)
    assert [part["status"] for part in shown["subtasks"]] == ["succeeded"]
    assert "2 of 3 rows" in plane.cli("runs", "results", slug, "--limit", "2").stderr
    assert "grüße" in plane.cli("runs", "results", slug).stdout
    assert plane.cli("runs", "rerun", slug).stdout.partition(" ")[2].startswith("succeeded, 3 rows")


def test_a_run_that_failed_says_why_and_exits_with_1(plane: Any) -> None:
    failing = plane.push("by-hand-failing", "raise ValueError('\\x1b[31mno such price')")
    done = plane.cli("runs", "start", failing, check=False)
    assert done.returncode == 1
    assert "no such price" in done.stdout
    assert "\x1b" not in done.stdout + plane.log("last")


def test_a_run_is_aborted_by_its_slug_and_aborting_twice_is_refused(plane: Any, worker: str) -> None:
    slug = plane.start(worker, n=1, pause=100)
    assert f"Aborting {slug}" in plane.cli("runs", "abort", slug).stderr
    assert plane.wait(slug)["status"] == "aborting"
    refused = plane.cli("runs", "abort", slug, check=False)
    assert refused.returncode == 1
    assert "ended already" in refused.stderr


def test_an_interrupted_command_leaves_its_run_running(plane: Any, worker: str) -> None:
    process = _popen(plane, "runs", "start", worker, "--input", '{"n": 1, "pause": 3}', "--logs")
    assert process.stdout is not None
    while "half way" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    slug = said.partition(" goes on")[0].splitlines()[-1]
    assert plane.wait(slug)["status"] == "succeeded"


def test_a_log_that_is_followed_goes_on_after_the_server_was_killed_and_started_again(
    make_plane: Callable[..., Any],
) -> None:
    plane = make_plane()
    (plane.data / "runner-token").write_text("f" * 64)
    shared = ("--data", str(plane.data))
    serve_arguments = ("serve", "--port", str(plane.port), "--runner-token-file", str(plane.data / "runner-token"))
    serve = plane.spawn(*serve_arguments, *shared, until="listens on")
    runner_arguments = ("runner", "--url", plane.url, "--token-file", str(plane.data / "runner-token"))
    plane.spawn(*runner_arguments, *shared, until="control plane at")
    worker = plane.push("followed", WORKER, schema=SCHEMA)
    slug = plane.start(worker, n=1, pause=4)
    process = _popen(plane, "runs", "logs", slug, "--follow")
    assert process.stdout is not None
    lines = []
    while "half way" not in (line := process.stdout.readline()):
        lines.append(line)
    lines.append(line)
    serve.kill()
    serve.wait()
    plane.spawn(*serve_arguments, *shared, until="listens on")
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Trying again" in said
    everything = "".join(lines) + rest
    assert everything.count("half way") == everything.count("the end") == 1
    assert "Run succeeded" in everything


def test_up_tells_its_states_in_words_and_nothing_else(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    up = _popen(plane, "up", "--port", str(plane.port), "--data", str(plane.data))
    plane.processes.append(up)
    assert up.stderr is not None
    said = []
    while "Ready" not in (line := up.stderr.readline()):
        said.append(line.strip())
    said.append(line.strip())
    plane.cli("workers", "list")
    up.send_signal(signal.SIGINT)
    stdout, rest = up.communicate(timeout=20)
    assert (up.returncode, stdout) == (0, "")
    said += rest.splitlines()
    assert said == [
        "Starting the control plane and a runner.",
        f"clawplane listens on {plane.url}",
        f"Ready: {plane.url} (Ctrl-C ends it)",
        "Stopping: what is running is handed back and starts again next time.",
        "Stopped.",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("up", "--port", "70000"), 2, "--port is out of range"),
        (("up", "--data", "/proc/nowhere"), 2, "cannot be used"),
        (("up", "--slots", "0"), 2, "--slots is out of range"),
        (("serve", "--log", "loud"), 2, "--log is no log level"),
        (("serve", "--data", "/proc/nowhere"), 78, "cannot be used"),
        (("serve", "--bind", "203.0.113.7"), 78, "Cannot listen on 203.0.113.7"),
        (("serve", "--bind", "no such host"), 78, "no address"),
        (("runner", "--url", "http://127.0.0.1:1"), 2, "no token"),
        (("runner", "--token-file", "/dev/null"), 2, "shorter than"),
        (("runner", "--label", "zone"), 2, "NAME=VALUE"),
    ],
)
def test_a_daemon_that_cannot_start_says_why_in_a_sentence_and_with_its_code(
    plane: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    environment = plane.environment | {"CLAWPLANE_DATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "clawplane", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file system, which an ordinary user may not")
def test_an_export_to_a_full_disk_fails_in_a_sentence_and_leaves_no_file(
    plane: Any, worker: str, tmp_path: Path
) -> None:
    slug = plane.run(worker, n=3000)["slug"]
    place = tmp_path / "small"
    place.mkdir()
    script = (
        f"mount -t tmpfs -o size=16k tmpfs {place} && "
        f"{sys.executable} -m clawplane runs export {slug} -o {place}/rows.csv; code=$?; ls -A {place}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], env=plane.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "rows.csv cannot be written: No space left on device." in done.stderr
    assert done.stdout == ""


def test_an_error_of_the_server_reaches_a_machine_as_json(plane: Any) -> None:
    refused = plane.cli("runs", "start", "local~nobody", "--json", check=False)
    error = json.loads(refused.stderr)
    assert (refused.returncode, refused.stdout, error["error"]) == (1, "", "worker_not_found")
    assert "nobody" in error["message"]


def _popen(plane: Any, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clawplane", *arguments],
        env=plane.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_control_plane_that_is_asked_to_end_closes_its_store_and_exits_with_0(
    make_plane: Callable[..., Any], number: int
) -> None:
    plane = make_plane()
    serve = plane.spawn("serve", "--port", str(plane.port), "--data", str(plane.data), until="listens on")
    with plane.http() as http:
        assert http.get("/healthz").status_code == 503
    serve.send_signal(number)
    assert serve.wait(10) == 0
    assert sorted(path.name for path in plane.data.glob("clawplane.db*")) == ["clawplane.db", "clawplane.db.lock"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_runner_that_reaches_no_control_plane_says_so_and_ends_at_once_when_asked(
    make_plane: Callable[..., Any], number: int
) -> None:
    plane = make_plane()
    (plane.data / "token").write_text("f" * 64)
    runner = plane.spawn(
        "runner",
        "--url",
        plane.url,
        "--data",
        str(plane.data),
        "--token-file",
        str(plane.data / "token"),
        until="No link to the control plane",
    )
    runner.send_signal(number)
    assert runner.wait(10) == 0
