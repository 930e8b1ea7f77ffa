"""Start the real thing for the main flows: `clawplane up` as a process, spoken to over HTTP and the command line."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

PROJECT = Path(__file__).resolve().parents[2]
CLAWPLANE = Path(sys.executable).with_name("clawplane")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Plane:
    """A running `clawplane up` (or its parts) with a data directory of its own."""

    data: Path
    port: int = field(default_factory=free_port)
    key: str = field(default_factory=lambda: f"scraper_api_{secrets.token_hex(24)}")
    prefix: tuple[str, ...] = ()
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "CLAWPLANE_URL": self.url,
            "CLAWPLANE_API_KEY": self.key,
            "CLAWPLANE_DATA": str(self.data),
            "XDG_STATE_HOME": str(self.data / "state"),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def spawn(self, *arguments: str, until: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a daemon and return when its stderr has said a line that contains `until`."""
        process = subprocess.Popen(
            [*self.prefix, str(CLAWPLANE), *arguments],
            env=environment or self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if until in line:
                threading.Thread(target=_drain, args=(process.stderr, said), daemon=True).start()
                process.said = said  # type: ignore[attr-defined]
                return process
        raise AssertionError(f"{arguments} ended with {process.wait()} before {until!r}:\n{''.join(said)}")

    def up(self, *arguments: str) -> subprocess.Popen[str]:
        return self.spawn("up", "--port", str(self.port), "--data", str(self.data), *arguments, until="Ready:")

    def cli(self, *arguments: str, check: bool = True, input_: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.prefix, str(CLAWPLANE), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            input=input_,
            timeout=110,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"clawplane {arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *arguments: str, check: bool = True) -> Any:
        return json.loads(self.cli(*arguments, "--json", check=check).stdout)

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=100, trust_env=False, **options
        )

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)
            if process.stderr is not None:
                process.stderr.close()


def _drain(stream: Any, said: list[str]) -> None:
    try:
        for line in stream:
            said.append(line)
            del said[:-400]
    except ValueError:
        return  # closed by stop()


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One running clawplane for every test that does not break it."""
    plane = Plane(tmp_path_factory.mktemp("plane"))
    plane.up()
    yield plane
    plane.stop()


@pytest.fixture
def make_plane(tmp_path: Path) -> Iterator[Callable[..., Plane]]:
    """Make planes that a test may break; each is stopped at its end."""
    planes: list[Plane] = []

    def make(name: str = "plane", **options: Any) -> Plane:
        plane = Plane(tmp_path / name, **options)
        planes.append(plane)
        return plane

    yield make
    for plane in planes:
        plane.stop()
