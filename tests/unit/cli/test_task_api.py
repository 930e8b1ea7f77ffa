"""`clawplane task-api` and `clawplane worker` together, started by nothing but the Task API's own variables."""

from __future__ import annotations

import asyncio
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

sys.path.insert(0, str(Path(__file__).parents[2]))

from receiver import Say, in_turn, receiver

from clawplane.settings import serve_settings

TOKEN = secrets.token_hex(16)


@pytest.mark.parametrize(
    ("variables", "port"),
    [
        ({"WORKER_PORT": "4000", "PORT": "5000"}, 4000),
        ({"PORT": "5000"}, 5000),
        ({"WORKER_PORT": "none", "PORT": "5000"}, 5000),
        ({"WORKER_PORT": "0"}, 3456),
        ({"WORKER_PORT": "4000", "CLAWPLANE_PORT": "6000"}, 6000),
        ({"WORKER_TOKEN": "", "PORT": "5000"}, 3456),
    ],
)
def test_the_port_is_that_of_the_first_variable_that_names_one(
    tmp_path: Path, variables: dict[str, str], port: int
) -> None:
    environment = {"HOME": str(tmp_path), "WORKER_TOKEN": TOKEN, **variables}
    assert serve_settings(environment=environment).port == port


def test_the_task_database_names_the_file_unless_a_data_directory_is_named(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "WORKER_TASK_DB": str(tmp_path / "db" / "tasks.db")}
    settings = serve_settings(environment=variables)
    assert settings.database == tmp_path / "db" / "tasks.db"
    assert settings.data == tmp_path / "db" / "tasks.db.d"
    assert serve_settings(environment=variables, data=tmp_path).database is None
    assert serve_settings(environment=variables | {"CLAWPLANE_DATA": "/d"}).data == Path("/d")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """What both processes are started with: nothing of clawplane's own."""
    port = _free_port()
    return {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "WORKER_TOKEN": TOKEN,
        "WORKER_PORT": str(port),
        "WORKER_URL": f"http://127.0.0.1:{port}",
        "WORKER_SHELL": "/bin/sh",
        "WORKER_TASK_DB": str(tmp_path / "db" / "tasks.db"),
        "RUNNER_SESSION_CACHE_FILE": str(tmp_path / "cache.json"),
        "CC_LOG_PATH": str(tmp_path / "live.log"),
    }


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
        assert process.wait(30) in (0, -signal.SIGKILL), said


def _ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with urlopen(Request(f"{url}{path}", data=data, headers=headers), timeout=60) as answer:
        return json.load(answer)


@pytest.mark.parametrize(("server", "runner"), [("task-api", "worker"), ("server", "reconciler")])
def test_a_command_goes_from_a_client_over_the_server_to_the_runner_and_back(
    environ: dict[str, str], tmp_path: Path, server: str, runner: str
) -> None:
    url = environ["WORKER_URL"]
    with _process(server, environ, until="listens on"), _process(runner, environ, until="polls"):
        task = _ask(url, "/tasks", {"command": "echo done; exit 3"})["taskId"]
        result = _ask(url, f"/tasks/{task}?wait=30000")
        runners = _ask(url, "/runners")["runners"]
    assert (result["stdout"], result["exitCode"]) == ("done\n", 3)
    assert [each["kind"] for each in runners] == ["poll"]
    assert stat.S_IMODE((tmp_path / "db" / "tasks.db").stat().st_mode) == 0o600


def test_a_server_killed_and_started_under_a_running_task_does_not_let_it_run_twice(
    environ: dict[str, str], tmp_path: Path
) -> None:
    url, begun, go, ran = environ["WORKER_URL"], tmp_path / "begun", tmp_path / "go", tmp_path / "ran"
    os.mkfifo(begun)
    os.mkfifo(go)
    with _process("worker", environ, until="polls"):
        with _process("task-api", environ, until="listens on") as first:
            command = f"echo x >> {ran}; echo > {begun}; cat {go}"
            task = _ask(url, "/tasks", {"command": command, "timeout": 100_000})["taskId"]
            begun.read_text()
            first.kill()
        with _process("task-api", environ, until="listens on"):
            assert _ask(url, f"/tasks/{task}")["status"] == "running"
            go.write_text("survived")
            result = _ask(url, f"/tasks/{task}?wait=60000")
            types = [each["type"] for each in _ask(url, f"/events?taskId={task}")["events"]]
    assert result["stdout"] == "survived"
    assert ran.read_text() == "x\n"
    assert sorted(types) == ["task.completed", "task.created", "task.reconciled", "task.started"]


@pytest.mark.parametrize(("direct", "sender"), [("on", "runner"), ("off", "server")])
async def test_runner_and_server_agree_on_who_sends_an_answer_so_that_it_is_sent_once(
    environ: dict[str, str], tmp_path: Path, direct: str, sender: str
) -> None:
    codex = tmp_path / "codex"
    codex.write_text(f"#!{sys.executable} -IS\n{CODEX}")
    codex.chmod(0o755)
    url = environ["WORKER_URL"]
    async with receiver(in_turn(Say())) as chat:
        both = {"CALLBACK_API_BASE_URL": chat.url, "WORKER_DIRECT_CALLBACK": direct}
        runner, server = ({**environ, **both, "CALLBACK_BOT_TOKEN": name} for name in ("runner", "server"))
        with _process("task-api", server, until="listens on"), _process("worker", runner, until="polls"):
            body = {"prompt": "hi", "callbackChannel": "slash:77"}
            task = (await asyncio.to_thread(_ask, url, "/codex", body))["taskId"]
            result = await asyncio.to_thread(_ask, url, f"/tasks/{task}?wait=60000")
            await chat.until(1)
            told = await asyncio.to_thread(_told, url, task)
    assert result["stdout"] == "The answer."
    assert [heard.json["content"] for heard in chat.heard] == ["The answer."]
    assert [heard.target for heard in chat.heard] == ["/channels/77/messages"]
    assert chat.heard[0].headers["authorization"] == f"Bot {sender}"
    assert [(each["type"], each["source"]) for each in told] == [
        ("callback.dispatched", sender),
        ("callback.sent", sender),
    ]


def _told(url: str, task: str) -> list[dict[str, Any]]:
    """Return the callback's records, oldest first, when the last one is there."""
    for _ in range(600):
        # a request of its own each time: what is waited for is told by nothing else on this wire
        events = _ask(url, f"/events?taskId={task}")["events"]
        told = [each for each in reversed(events) if each["type"].startswith("callback.")]
        if told and told[-1]["type"] != "callback.dispatched":
            return told
    pytest.fail(f"no end of the callback: {told}")


CODEX = """
import json, sys
if "--help" in sys.argv:
    print("  -m, --model\\n      --json\\n  -s, --sandbox\\n      --skip-git-repo-check")
    sys.exit(0)
sys.stdin.read()
print(json.dumps({"type": "thread.started", "thread_id": "0199a213-81c0-7800-8aa1-bbab2a035a53"}))
print(json.dumps({"type": "item.completed", "item": {"id": "i1", "type": "agent_message", "text": "The answer."}}))
print(json.dumps({"type": "turn.completed", "usage": {}}))
"""
