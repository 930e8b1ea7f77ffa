"""Start what docs/how-to/deploy.md describes: the image's steps, and server and runner as its four modes place them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

PROJECT = Path(__file__).resolve().parents[2]
CLAWPLANE = Path(sys.executable).with_name("clawplane")


@pytest.mark.network
@pytest.mark.timeout(400)
def test_the_image_is_built_started_and_recreated_without_losing_its_queue() -> None:
    """R28: word for word what docker/Dockerfile says, on a throw-away layer over this machine's root."""
    ours = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshared = ["unshare", "--mount", "--propagation", "private", *ours]
    layer = ["sh", "-c", "mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w /mnt/r && "
             "mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r"]  # fmt: skip
    if not shutil.which("unshare") or subprocess.run([*unshared, *layer], capture_output=True, check=False).returncode:
        pytest.skip("this host lets nobody lay a file system over its root")
    done = subprocess.run(
        [*unshared, "/usr/bin/python3", str(Path(__file__).with_name("image_steps.py")), str(PROJECT)],
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"kept": True, "modes": {"/data/clawplane": "0o700"}}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The private files that docker/setup.sh writes, in a directory of this test's own."""
    shutil.copytree(PROJECT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns(".env", ".runtime"))
    (tmp_path / "home").mkdir()
    subprocess.run(
        [str(tmp_path / "docker" / "setup.sh"), "--files-only"],
        env=os.environ | {"HOME": str(tmp_path / "home")},
        check=True,
        capture_output=True,
    )
    return tmp_path / "docker"


def variables(file: Path) -> dict[str, str]:
    """Return what an environment file sets."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@contextmanager
def started(tmp_path: Path, words: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a daemon with a clean environment, as an engine or a service manager does, and stop it in order."""
    known = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(words, env=known | environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(6) == 0
    finally:
        process.kill()
        process.wait()


def well(url: str) -> None:
    """Wait until a server is well."""
    until = time.monotonic() + 30
    while True:
        try:
            assert httpx.get(f"{url}/health", trust_env=False).json()["status"] == "ok"
        except httpx.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return


def echoed(url: str, token: str) -> dict[str, Any]:
    """Submit a command as a bot does and return its result."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=40) as bot:
        task = bot.post("/tasks", json={"command": "echo from $WORKER_NAME_OF_THIS_TEST in $PWD"}).json()["taskId"]
        result: dict[str, Any] = bot.get(f"/tasks/{task}", params={"wait": 30_000}).json()
        return result


def separately(files: Path, tmp_path: Path, url: str, runner: list[str], bind: str) -> None:
    """Server and runner with their own files alone: neither sees what the other's holds."""
    server = variables(files / ".env")
    port = url.rpartition(":")[2]
    serve = [str(CLAWPLANE), "task-api", "--data", str(tmp_path / "data"), "--port", port, "--bind", bind]
    own = variables(files / ".runtime" / "runner.env") | {"WORKER_URL": url, "WORKER_NAME_OF_THIS_TEST": "here"}
    with started(tmp_path, serve, server):
        well(url)
        with started(tmp_path, [*runner, "--data", str(tmp_path / "runner")], own):
            result = echoed(url, server["CLAWPLANE_HOST_CLIENT_TOKEN"])
    assert (result["exitCode"], result["stdout"]) == (0, f"from here in {tmp_path / 'home'}\n")
    log = (tmp_path / "log").read_text()
    assert not any(value in log for name, value in (server | own).items() if "TOKEN" in name or "KEY" in name)


@pytest.mark.parametrize(
    ("name", "bind"),
    [("worker", "127.0.0.1"), ("reconciler", "0.0.0.0")],
    ids=["docker-local", "docker-and-remote-runner"],
)
def test_a_server_with_the_containers_variables_serves_a_runner_outside(
    files: Path, tmp_path: Path, name: str, bind: str
) -> None:
    separately(files, tmp_path, f"http://127.0.0.1:{free_port()}", [str(CLAWPLANE), name], bind)


def test_a_runner_behind_the_starter_reaches_a_server_elsewhere_and_opens_no_port(files: Path, tmp_path: Path) -> None:
    """Cloud and remote runner: the runner is started as launchd and screen start it, with its private file."""
    url = f"http://127.0.0.1:{free_port()}"
    file = files / ".runtime" / "runner.env"
    file.write_text(file.read_text() + "WORKER_NAME_OF_THIS_TEST=here\n")
    file.write_text(file.read_text().replace("http://127.0.0.1:3456", url))
    starter = ["env", f"CLAWPLANE_RUNNER_ENV={file}", f"CLAWPLANE={CLAWPLANE}", str(PROJECT / "deploy/run-worker.sh")]
    separately(files, tmp_path, url, starter, "127.0.0.1")


def test_server_and_runner_start_bare_on_one_machine_with_one_token(tmp_path: Path) -> None:
    """Single host: two commands, WORKER_TOKEN and WORKER_URL."""
    (tmp_path / "home").mkdir()
    port = free_port()
    url, token = f"http://127.0.0.1:{port}", {"WORKER_TOKEN": "s" * 64}
    with started(tmp_path, [str(CLAWPLANE), "server"], token | {"PORT": str(port)}):
        well(url)
        with started(tmp_path, [str(CLAWPLANE), "worker"], token | {"WORKER_URL": url}):
            assert echoed(url, "s" * 64)["stdout"] == f"from in {tmp_path / 'home'}\n"


def free_port() -> int:
    """Return a port of the loopback that nobody listens on at this moment."""

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_logs_hold_no_token_command_path_or_prompt(files: Path, tmp_path: Path) -> None:
    """R34: on both sides, and with everything logged that can be."""
    server, url = variables(files / ".env"), f"http://127.0.0.1:{free_port()}"
    own = variables(files / ".runtime" / "runner.env") | {"WORKER_URL": url, "CODEX_PATH": "no-such-codex"}
    serve = [str(CLAWPLANE), "task-api", "--data", str(tmp_path / "data"), "--port", url.rpartition(":")[2]]
    said = {
        "/tasks": {"command": "echo said-in-a-command"},
        "/files/write": {"path": str(tmp_path / "said-in-a-path"), "content": "said-in-a-content"},
        "/codex": {"prompt": "said-in-a-prompt", "callbackBotToken": "said-in-a-bot-token"},
    }
    with (
        started(tmp_path, [*serve, "--log", "debug"], server),
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {server['WORKER_TOKEN']}"}, trust_env=False
        ) as bot,
    ):
        well(url)
        with started(tmp_path, [str(CLAWPLANE), "worker", "--data", str(tmp_path / "runner"), "--log", "debug"], own):
            for path, body in said.items():
                if (
                    path == "/codex"
                ):  # where there is no Codex its runner takes none; the server has logged it all the same
                    bot.post(path, json=body)
                    continue
                task = bot.post(path, json=body).json()["taskId"]
                assert bot.get(f"/tasks/{task}", params={"wait": 30_000}, timeout=40).json()["exitCode"] == 0
    log = (tmp_path / "log").read_text()
    assert "/files/write" in log
    assert "begins" in log
    secrets = [value for name, value in (server | own).items() if "TOKEN" in name or "KEY" in name]
    assert [text for text in ("said-in-a", *secrets) if text in log] == []
