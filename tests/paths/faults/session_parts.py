"""What faults of code sessions need: a control plane and a runner to kill, callers, and what guests could leave."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fault_parts import Parts, groups_of, guests_of

PATIENCE = 40.0
HOLD = """
import os, time
reached = 1
print('on', flush=True)
open('/workspace/begun', 'w').close()
while not os.path.exists('/workspace/go'):
    time.sleep(0.01)
after = 1
"""
"""Code that runs until a test writes the file `go`."""
NAMES = "[name for name in ('kept', 'reached', 'after', 'queued') if name in globals()]"
KINDS = {"json": "application/json", "sse": "text/event-stream", "ndjson": "application/x-ndjson"}


def until(holds: Callable[[], object], patience: float = PATIENCE) -> None:
    """Look again and again, by requests or by /proc, until `holds`."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "waited in vain"


@dataclass(frozen=True)
class Left:
    """What sessions have on the host: processes, control groups, mounts, and directories of the runner."""

    guests: tuple[int, ...]
    groups: tuple[str, ...]
    mounts: tuple[str, ...]
    places: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.guests or self.groups or self.mounts or self.places)


class SessionParts:
    """One control plane and one runner with the profile `bare` and no ready pool: no process without a session."""

    def __init__(self, parts: Parts, *, runner_in: Sequence[str] = ()) -> None:
        """Start both; `runner_in` is a command that runs the command behind it."""
        self.parts = parts
        self.plane = parts.plane
        self.http = parts.http
        self.home = parts.home / "runner" / "runner"
        self.home.mkdir()
        shutil.copy(parts.home / "runner" / "selftest.json", self.home)
        self.server = parts.serve()
        self.plane.prefix = tuple(runner_in)
        self.runner = parts.runner("runner")
        self.plane.prefix = ()

    # callers

    def create(self, **options: Any) -> str:
        """Create a session and return its id."""
        answer = self.http.post("/v1/sessions", json={"profile": "bare"} | options)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def exec(self, session: str, code: str, *, http: httpx.Client | None = None, **more: Any) -> httpx.Response:
        """Execute Python and return the answer, whatever it is."""
        return (http or self.http).post(f"/v1/sessions/{session}/exec", json={"code": code} | more)

    def run(self, session: str, code: str, **more: Any) -> dict[str, Any]:
        """Execute Python and return its result."""
        answer = self.exec(session, code, **more)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def value(self, session: str, expression: str) -> str:
        """Return what an expression is."""
        result = self.run(session, expression)
        assert result["error"] is None, result
        return str(result["results"][0]["text/plain"])

    def again(self, session: str, code: str) -> dict[str, Any]:
        """Execute after a fault: try again for as long as the answer says so."""
        answers: list[httpx.Response] = []

        def done() -> bool:
            answers.append(self.exec(session, code))
            if answers[-1].status_code == 503:
                refusal = answers[-1].json()
                assert refusal["code"] == "unavailable"
                assert refusal["hint"]
            return answers[-1].status_code != 503

        until(done)
        assert answers[-1].status_code == 200, answers[-1].text
        result: dict[str, Any] = answers[-1].json()
        return result

    def session(self, session: str) -> dict[str, Any]:
        """Return a session as it stands."""
        found: dict[str, Any] = self.http.get(f"/v1/sessions/{session}").json()
        return found

    def execs(self, session: str) -> list[dict[str, Any]]:
        """Return a session's history, newest first."""
        found: list[dict[str, Any]] = self.http.get(f"/v1/sessions/{session}/execs").json()["execs"]
        return found

    def has(self, session: str, path: str) -> bool:
        """Tell whether a file is in the workspace."""
        return self.http.get(f"/v1/sessions/{session}/files/stat", params={"path": path}).status_code == 200

    def write(self, session: str, path: str) -> None:
        """Write an empty file."""
        answer = self.http.put(f"/v1/sessions/{session}/files/content", params={"path": path}, content=b"")
        assert answer.status_code == 201, answer.text

    def delete(self, session: str) -> None:
        """End a session."""
        assert self.http.delete(f"/v1/sessions/{session}").status_code == 200

    def dial(self, session: str, kind: str, code: str, **more: Any) -> socket.socket:
        """Ask for an exec on a connection of its own that takes little ahead of its reader."""
        body = json.dumps({"code": code} | more).encode()
        head = (
            f"POST /v1/sessions/{session}/exec HTTP/1.1",
            "Host: plane",
            f"Authorization: Bearer {self.plane.key}",
            f"Accept: {KINDS[kind]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(PATIENCE)
        caller.connect(("127.0.0.1", self.plane.port))
        caller.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        return caller

    # what is left

    def clean(self) -> None:
        """Return when nothing of any session is left on this host; raise AssertionError that says what is."""
        end = time.monotonic() + PATIENCE
        while left := self.left():
            assert time.monotonic() < end, left

    def left(self, *, runner: int | None = None) -> Left:
        """Look for everything that sessions of a runner (its pid; the present one's) could leave on this host."""
        pid = runner or self.runner.pid
        directory = str(self.parts.home / "runner")
        return Left(
            guests=tuple(guest for guest in guests_of(Path(directory)) if not _is_zygote(guest)),
            groups=tuple(guest for base in groups_of([pid]) for guest in _guest_groups(base)),
            mounts=tuple(line for name in ("self", str(pid)) for line in _mounts(name) if directory in line),
            places=tuple(
                each.name for kind in ("sessions", "unnamed", "arriving") for each in _listing(self.home / kind)
            ),
        )


def events(text: str, kind: str) -> list[dict[str, Any]]:
    """Return the events of a stream's body."""
    lines = text.splitlines()
    if kind == "sse":
        lines = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(line) for line in lines]


def memory_of(pid: int) -> int:
    """Return the most memory that a process has held, in bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def connections_of(pid: int) -> int:
    """Count the sockets of a process."""
    count = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(entry.path).startswith("socket:")
    return count


def _is_zygote(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # it is gone
    return words.startswith(b"zygote\0") or b"inside/main.py" in words


def _guest_groups(base: str) -> list[str]:
    try:
        return [f"{base}/{name}" for name in os.listdir(base) if name.startswith("guest-")]
    except OSError:
        return []


def _mounts(process: str) -> list[str]:
    try:
        return Path(f"/proc/{process}/mountinfo").read_text().splitlines()
    except OSError:
        return []


def _listing(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.exists() else []
