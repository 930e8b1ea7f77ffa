"""What faults of host tasks need: clients and runners that speak the Task API, and the real daemons beside them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fault_parts import Parts

TOKEN = "h" * 64
CLAWPLANE = Path(sys.executable).with_name("clawplane")
MARK = "FAULT_MARK"


class HostParts:
    """One control plane's Task API, as clients and runners see it."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.home = parts.home / "home"
        self.home.mkdir()
        self.http = httpx.Client(
            base_url=parts.plane.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=70, trust_env=False
        )
        self.tasks: list[str] = []

    # clients

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Return the answer to a request that must succeed."""
        answer = self.http.request(method, path, json=body, **more)
        assert answer.status_code == 200, (method, path, answer.status_code, answer.text)
        return answer.json()

    def submit(self, command: str = "true", *, key: str | None = None, **more: Any) -> str:
        """Submit a command and return its id."""
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"command": command, "env": {MARK: str(self.parts.home)}} | more
        return self._took(self.ask("POST", "/tasks", body, headers=headers)["taskId"])

    def prompt(self, session: str) -> str:
        """Submit a prompt in a session and return its id."""
        return self._took(self.ask("POST", "/codex", {"prompt": "go on", "sessionId": session})["taskId"])

    def _took(self, task: str) -> str:
        if task not in self.tasks:
            self.tasks.append(task)
        return task

    def fetch(self, task: str, wait: int = 30_000) -> dict[str, Any]:
        """Return a result, which must come."""
        result: dict[str, Any] = self.ask("GET", f"/tasks/{task}", params={"wait": wait})
        assert "stdout" in result, result
        return result

    def state(self, task: str) -> str:
        """Return the state of a task whose result is not there."""
        return str(self.ask("GET", f"/tasks/{task}")["status"])

    def begun(self, directory: Path, first: str = "", **more: Any) -> str:
        """Submit a task that leaves a process and only ends when it is killed, and return when it runs.

        `first` is what its shell does before; a fifo is made in the directory.
        """
        fifo = directory / "begun"
        os.mkfifo(fifo)
        task = self.submit(f"{first}(setsid sleep 300 &) ; echo begun > {fifo}; sleep 300", **more)
        assert fifo.read_text() == "begun\n"
        assert self.marked()
        return task

    # played runners

    def poll(self) -> dict[str, Any] | None:
        """Poll as a peer's runner does: without a name, without heartbeats."""
        task: dict[str, Any] | None = self.ask("GET", "/worker/poll", params={"wait": 1000})
        return task

    def claim(self, task: str) -> dict[str, Any]:
        """Poll and get this task."""
        given = self.poll()
        assert given is not None
        assert given["id"] == task, given
        return given

    def report(self, task: str, *, exit_code: int = 0, stdout: str = "done\n") -> None:
        """Report an end."""
        assert self.ask("POST", "/worker/result", report_of(task, exit_code, stdout)) == {"success": True}

    @contextmanager
    def said(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[socket.socket]:
        """Send a request and read no answer."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = {
            "Host": "x",
            "Authorization": f"Bearer {TOKEN}",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
        } | {name.replace("_", "-"): text for name, text in headers.items()}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {text}\r\n" for name, text in lines.items())
        with socket.create_connection(("127.0.0.1", self.parts.plane.port)) as connection:
            connection.sendall(head.encode() + b"\r\n" + content)
            yield connection

    # real runners

    def worker(self, url: str, name: str = "worker") -> subprocess.Popen[str]:
        """Start a polling runner; what it keeps on disk is its own."""
        environment = os.environ | {"WORKER_URL": url, "HOME": str(self.home), "LONG_POLL_WAIT": "2000"}
        with (self.parts.home / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [str(CLAWPLANE), "worker", "--data", str(self.parts.home / name), "--name", name, "--log", "debug"],
                env=environment, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        self.parts.plane.processes.append(process)
        return process

    def runner(self, url: str, name: str = "linked") -> subprocess.Popen[str]:
        """Start a linked runner that takes host tasks."""
        process: subprocess.Popen[str] = self.parts.plane.spawn(
            *("runner", "--url", url, "--data", str(self.parts.home / name), "--name", name, "--host-tasks"),
            *("--drain", "1", "--token-file", str(self.parts.token_file)),
            until="Linked",
            environment=self.parts.plane.environment | {"HOME": str(self.home), "CLAWPLANE_SESSIONS": "0"},
        )
        return process

    def marked(self) -> list[int]:
        """Return the processes that a command of these tests left or runs."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if f"{MARK}={self.parts.home}".encode() in variables:
                found.append(int(entry.name))
        return found


def report_of(task: str, exit_code: int = 0, stdout: str = "done\n") -> dict[str, Any]:
    """Return the body of a report."""
    return {"taskId": task, "stdout": stdout, "stderr": "", "exitCode": exit_code, "error": None}
