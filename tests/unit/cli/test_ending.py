"""Every way a command can end: an exit code, at most a sentence and a hint, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from clawplane.cli.ending import conclude
from clawplane.domain.errors import ClawplaneError, NotFound

RUN = {"slug": "01R", "scraper_title": "W", "version": "v1", "status": "running", "results": 1, "duration": 2}


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NotFound("There is no run 'x'.", hint="List them."), 1, "error: There is no run 'x'.\nhint: List them.\n"),
        (SystemExit(78), 78, ""),
        (SystemExit(None), 0, ""),
        (SystemExit("words"), 1, "words\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            PermissionError(errno.EACCES, "Permission denied", "/secret"),
            1,
            "error: /secret: Permission denied.\nhint: ",
        ),
        (
            ZeroDivisionError("division"),
            70,
            "error: clawplane failed unexpectedly: ZeroDivisionError: division\nhint: ",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_ending_has_its_exit_code_and_its_sentence(
    error: BaseException, code: int, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["clawplane"])
    monkeypatch.setattr("clawplane.cli.ending._silence_stdout", lambda: None)
    assert conclude(raising(error)) == code
    written = capfd.readouterr()
    assert written.out == ""
    assert written.err.startswith(said)
    assert "Traceback" not in written.err


def test_a_machine_gets_an_error_as_one_json_object(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["clawplane", "runs", "show", "--json"])
    error: ClawplaneError = NotFound("There is no run.", hint="List them.", details=["a"])
    assert conclude(raising(error)) == 1
    assert json.loads(capfd.readouterr().err) == {
        "error": "not_found",
        "message": "There is no run.",
        "details": ["a"],
        "hint": "List them.",
    }


def test_a_defect_shows_where_it_is_only_when_asked(environment: dict[str, str]) -> None:
    program = "import sys; from clawplane.cli.ending import conclude; sys.exit(conclude(lambda: 1 / 0))"

    def told(**more: str) -> str:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)
        assert done.returncode == 70
        return done.stderr

    quiet = told()
    assert quiet.startswith("error: clawplane failed unexpectedly: ")
    assert "Traceback" not in quiet
    assert "Traceback" in told(CLAWPLANE_LOG="debug")


def test_a_reader_that_goes_away_ends_the_command_in_silence(environment: dict[str, str], server: Any) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        line = json.dumps({"seq": 1, "type": 2, "content": "x" * 1000, "timestamp": 0}).encode() + b"\n"
        try:
            while True:
                handler.wfile.write(line)
        except OSError:
            return

    server.answers = {"GET /api/v2/worker-runs/last": RUN, "GET /v1/runs/01R/log": endless}
    process = subprocess.Popen(
        [sys.executable, "-m", "clawplane", "runs", "logs"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("command", [("--help",), ("runs", "list", "--json"), ("runs", "show"), ("runs", "export")])
def test_output_to_a_full_disk_is_one_sentence(clawplane: Any, server: Any, command: tuple[str, ...]) -> None:
    def file(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"a,b\r\n" * 100_000)

    server.answers = {
        "GET /api/v2/worker-runs": {"count": 0, "list": []},
        "GET /api/v2/worker-runs/last": RUN,
        "GET /v1/runs/01R/subtasks": {"list": []},
        "GET /api/v2/worker-runs/last/result/export": {"download_url": "http://x/v1/downloads/a"},
        "GET /v1/downloads/a": file,
    }
    with open("/dev/full", "w") as full:
        done = clawplane(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["runs list --json", "runs list", "--version", "--help"])
def test_a_command_with_closed_streams_still_ends_well(environment: dict[str, str], server: Any, command: str) -> None:
    server.answers = {"GET /api/v2/worker-runs": {"count": 0, "list": []}}
    line = f"{sys.executable} -m clawplane {command} >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], env=environment, check=False).returncode == 0


def test_text_that_a_terminal_cannot_show_does_not_end_a_command(clawplane: Any, server: Any) -> None:
    server.answers = {"GET /v1/workers/w": _worker(title="grüße 東京")}
    done = clawplane("workers", "show", "w", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "gr\\xfc\\xdfe" in done.stdout


def test_nothing_that_a_worker_or_server_names_itself_reaches_the_terminal_as_a_command(
    clawplane: Any, server: Any
) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J[/bold][red]\u202e\r"
    server.answers = {
        "GET /v1/workers/w": _worker(title=evil, description=evil, build_error=evil),
        "GET /api/v2/workers": {"scraper": [{"path": evil, "title": evil, "slug": evil}]},
        "GET /api/v2/worker-runs/last": RUN | {"status": "failed", "err_msg": evil},
        "GET /v1/runs/01R/subtasks": {
            "list": [{"id": evil, "status": evil, "outcome": {"message": evil}, "attempts": []}]
        },
        "GET /v1/runs/01R/log": lambda handler: _ndjson(
            handler, {"seq": 1, "type": 9, "content": evil, "timestamp": -(10**18)}
        ),
        "GET /api/v2/worker-runs/last/result": {
            "count": 1,
            "headers": [{"key": "a", "label": evil}],
            "list": [{"a": evil}, {"a": {"b": evil}}],
        },
        "GET /v1/keys": {"list": [{"id": evil, "name": evil, "scopes": [evil], "created_at": 0, "revoked_at": None}]},
    }
    for command in (
        "workers show w",
        "workers list",
        "runs show",
        "runs logs",
        "runs results",
        "keys list",
    ):
        done = clawplane(*command.split(" "))
        assert "Traceback" not in done.stderr, command
        for text in (done.stdout, done.stderr):
            assert not any(forbidden in text for forbidden in "\x1b\x07\u202e\r"), command
        if "[/bold]" not in done.stdout + done.stderr:
            raise AssertionError(f"{command} took a name for markup")


def _worker(**values: Any) -> dict[str, Any]:
    build_error = values.pop("build_error", "")
    version = {
        "worker": "s",
        "path": "p",
        "version": "v1",
        "language": "python",
        "status": "failed",
        "package_size": 1,
        "diagnostics": [],
        "build_error": build_error,
        "unchanged": False,
    }
    return {"slug": "01S", "path": "local~w", "title": "W", "description": "", "versions": [version]} | values


def _ndjson(handler: BaseHTTPRequestHandler, *entries: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for entry in entries:
        handler.wfile.write(json.dumps(entry).encode() + b"\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_a_run_is_watched_ends_the_command_and_says_that_the_run_goes_on(
    environment: dict[str, str], server: Any, number: int, code: int
) -> None:
    watched, over = threading.Event(), threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.flush()
        watched.set()
        over.wait(30)

    server.answers = {"POST /api/v2/workers/w/runs": {"run_slug": "01R"}, "GET /v1/runs/01R/log": hold}
    process = subprocess.Popen(
        [sys.executable, "-m", "clawplane", "runs", "start", "w"], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert watched.wait(30)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    over.set()
    assert process.returncode == code
    assert "01R goes on" in said
    assert "Traceback" not in said


def test_ctrl_c_ends_a_command_that_waits_for_its_input(environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _MARKED, "runs", "start", "w", "--input-file", "-"],
        env=environment,
        stdin=reader,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(reader)
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    os.close(writer)
    assert process.returncode == 130
    assert said == ""


_MARKED = """
import clawplane.cli.run_input as run_input, sys
read = run_input._read
def marked(file):
    print("reading", flush=True)
    return read(file)
run_input._read = marked
from clawplane.__main__ import main
sys.argv = ["clawplane", *sys.argv[1:]]
main()
"""


def test_ctrl_c_while_the_program_is_being_loaded_is_as_quiet_as_later(environment: dict[str, str]) -> None:
    program = (
        "import signal, sys, builtins\n"
        "real = builtins.__import__\n"
        "def load(name, *rest):\n"
        "    if name == 'cyclopts': signal.raise_signal(signal.SIGINT)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = load\n"
        "sys.argv = ['clawplane', 'runs', 'list']\n"
        "from clawplane.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:3456", "not an http:// or https:// address"),
        ("ftp://localhost", "not an http:// or https:// address"),
        ("http://[::1", "not an http:// or https:// address"),
        ("http://127.0.0.1:99999", "not an http:// or https:// address"),
        ("http://user:pass@127.0.0.1:1", "CLAWPLANE_API_KEY"),
        ("http://127.0.0.1:1", "clawplane up"),
        ("https://127.0.0.1:1", "clawplane up"),
        ("http://no-such-host.invalid", "cannot be reached"),
    ],
)
def test_an_address_that_is_wrong_or_dead_is_named_with_the_way_out(clawplane: Any, url: str, said: str) -> None:
    done = clawplane("runs", "list", env={"CLAWPLANE_URL": url})
    assert done.returncode == 1
    assert said in done.stderr
    assert "pass@" not in done.stderr
    assert "Traceback" not in done.stderr


def test_arguments_that_are_no_unicode_are_refused_in_a_sentence(clawplane: Any, server: Any) -> None:
    odd = os.fsdecode(b"caf\xe9")
    for command in (("workers", "show", odd), ("workers", "list", "--keyword", odd), ("keys", "create", odd)):
        done = clawplane(*command, errors="replace")
        assert done.returncode == 1
        assert "Unicode" in done.stderr
    assert server.seen == []


@pytest.mark.parametrize("command", [("runs", "foo"), ("runs", "start"), ("runs", "list", "--page", "one"), ("nope",)])
def test_a_wrong_command_line_has_exit_code_2_and_names_its_help(clawplane: Any, command: tuple[str, ...]) -> None:
    done = clawplane(*command)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "--help`" in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(clawplane: Any, tmp_path: Path) -> None:
    (tmp_path / "w.zip").write_bytes(b"PK")
    (tmp_path / "w.zip").chmod(0)
    done = clawplane("workers", "push", "w.zip")
    assert done.returncode == 1
    assert "w.zip: Permission denied." in done.stderr
