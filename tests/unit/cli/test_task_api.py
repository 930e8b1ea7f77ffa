"""`clawplane task-api` and `clawplane worker` together, started by nothing but the Task API's own variables."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from clawplane.cli.task_api import port_of
from clawplane.settings import serve_settings

TOKEN = secrets.token_hex(16)


def test_the_port_is_that_of_the_first_variable_that_names_one() -> None:
    assert port_of({"WORKER_PORT": "4000", "PORT": "5000"}) == 4000
    assert port_of({"PORT": "5000"}) == 5000
    assert port_of({"WORKER_PORT": "none", "PORT": "5000"}) == 5000
    assert port_of({"WORKER_PORT": "0"}) == port_of({}) == 3456


def test_the_task_database_names_the_file_unless_a_data_directory_is_named(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "WORKER_TASK_DB": str(tmp_path / "db" / "tasks.db")}
    settings = serve_settings(environment=variables)
    assert settings.database == tmp_path / "db" / "tasks.db"
    assert settings.data == tmp_path / "db" / "tasks.db.d"
    assert serve_settings(environment=variables, data=tmp_path).database is None
    assert serve_settings(environment=variables | {"CLAWPLANE_DATA": "/d"}).data == Path("/d")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _process(name: str, environ: dict[str, str], *, until: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the block ends, once it has said that it is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clawplane", name], env=environ, stderr=subprocess.PIPE, text=True
    )
    said = []
    with process, closing(process.stderr) as stderr:
        try:
            for line in stderr:
                said.append(line)
                if until in line:
                    break
            else:
                pytest.fail(f"{name} ended: {''.join(said)}")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            said.append(stderr.read())
        assert process.wait(30) == 0, said


def _ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with urlopen(Request(f"{url}{path}", data=data, headers=headers), timeout=60) as answer:
        return json.load(answer)


@pytest.mark.parametrize(("server", "runner"), [("task-api", "worker"), ("server", "reconciler")])
def test_a_command_goes_from_a_client_over_the_server_to_the_runner_and_back(
    tmp_path: Path, server: str, runner: str
) -> None:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "WORKER_TOKEN": TOKEN,
        "WORKER_PORT": str(port),
        "WORKER_URL": url,
        "WORKER_SHELL": "/bin/sh",
        "WORKER_TASK_DB": str(tmp_path / "db" / "tasks.db"),
        "RUNNER_SESSION_CACHE_FILE": str(tmp_path / "cache.json"),
        "CC_LOG_PATH": str(tmp_path / "live.log"),
    }
    with _process(server, environ, until="listens on"), _process(runner, environ, until="polls"):
        task = _ask(url, "/tasks", {"command": "echo done; exit 3"})["taskId"]
        result = _ask(url, f"/tasks/{task}?wait=30000")
        runners = _ask(url, "/runners")["runners"]
    assert (result["stdout"], result["exitCode"]) == ("done\n", 3)
    assert [each["kind"] for each in runners] == ["poll"]
    assert stat.S_IMODE((tmp_path / "db" / "tasks.db").stat().st_mode) == 0o600
