"""Start the real thing for the main flows: `clawplane up` as a process, spoken to over HTTP and the command line."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

from outside import Outside, outside_in  # noqa: E402 - found in this directory

PROJECT = Path(__file__).resolve().parents[2]
CLAWPLANE = Path(sys.executable).with_name("clawplane")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Plane:
    """A running `clawplane up` (or its parts) with a data directory of its own."""

    data: Path  # exists
    port: int = field(default_factory=free_port)
    key: str = field(default_factory=lambda: f"scraper_api_{secrets.token_hex(24)}")
    prefix: tuple[str, ...] = ()
    profiles: str = "bare"
    """The session profiles its runners install; most tests need none."""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CLAWPLANE_SESSION_POOL": "4",  # what is made ahead for nobody is taken down again, too
            **os.environ,
            "CLAWPLANE_URL": self.url,
            "CLAWPLANE_API_KEY": self.key,
            "CLAWPLANE_DATA": str(self.data),
            "XDG_STATE_HOME": str(self.data / "state"),
            "CLAWPLANE_SESSION_PROFILES": self.profiles,
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
        process.stderr.close()
        raise AssertionError(f"{arguments} ended with {process.wait()} before {until!r}:\n{''.join(said)}")

    def know(self, verdict: Path) -> None:
        """Let its runner remember that this host holds."""
        (self.data / "runner").mkdir()
        shutil.copy(verdict, self.data / "runner" / "selftest.json")

    def up(self, *arguments: str) -> subprocess.Popen[str]:
        return self.spawn("up", "--port", str(self.port), "--data", str(self.data), *arguments, until="Ready:")

    def cli(
        self,
        *arguments: str,
        check: bool = True,
        input_: str | None = None,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.prefix, str(CLAWPLANE), *arguments],
            env=environment or self.environment,
            cwd=cwd,
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

    def push(self, name: str, main: str, **parts: Any) -> str:
        """Push a Python Worker made of its main.py and return its path."""
        file = self.data / f"{name}.zip"
        file.write_bytes(package(main, **parts))
        self.json("workers", "push", str(file), "--name", name)
        return f"local~{name}"

    def start(self, worker: str, **custom: Any) -> str:
        """Start a run and return its slug."""
        return str(self.json("runs", "start", worker, "--input", json.dumps(custom), "--no-wait")["run_slug"])

    def run(self, worker: str, *options: str, **custom: Any) -> dict[str, Any]:
        """Start a run, wait for its end and return it, whatever the end."""
        answer: dict[str, Any] = self.json(
            "runs", "start", worker, "--input", json.dumps(custom), "--cpus", "1", *options, check=False
        )
        return answer

    def wait(self, slug: str) -> dict[str, Any]:
        """Follow a run's log to its end and return the run."""
        self.cli("runs", "logs", slug, "--follow")
        answer: dict[str, Any] = self.json("runs", "show", slug)
        return answer

    def counts_memory(self) -> bool:
        """Tell whether a cgroup counts memory here; where none does, a guest hears MemoryError before it is ended."""
        return any(finding["ok"] for finding in self.json("doctor", check=False) if finding["id"] == "cgroup-memory")

    def log(self, slug: str) -> str:
        return self.cli("runs", "logs", slug).stdout

    def rows(self, slug: str) -> list[dict[str, Any]]:
        lines = self.cli("runs", "export", slug, "--format", "jsonl").stdout.splitlines()
        return [json.loads(line) for line in lines]

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


SDK = PROJECT / "src" / "clawplane" / "sdk" / "templates" / "python"
INPUT_SCHEMA = {"properties": [{"name": "n", "type": "integer", "editor": "number", "default": 1}]}


def package(main: str, *, schema: dict[str, Any] | None = None, files: dict[str, str] | None = None) -> bytes:
    """Return the ZIP of a Python Worker with the SDK's files."""
    content = {
        "main.py": main,
        "requirements.txt": "grpcio\nprotobuf\n",
        "input_schema.json": json.dumps(schema or INPUT_SCHEMA),
        "output_schema.json": "[]",
        "README.md": "A test Worker.",
    } | (files or {})
    for name in ("sdk.py", "sdk_pb2.py", "sdk_pb2_grpc.py"):
        content.setdefault(name, (SDK / name).read_text(encoding="utf-8"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_package() -> Callable[..., bytes]:
    return package


@pytest.fixture(scope="session")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a runner on this host finds when it attacks its own sandbox: once for all planes, not once for each."""
    shared = tmp_path_factory.getbasetemp().parent / "selftest.json"
    if not shared.exists():
        subprocess.run([sys.executable, "-c", TRIAL, str(shared)], timeout=110, check=True)
    return shared


TRIAL = """
import asyncio, pathlib, sys, tempfile
from clawplane.domain.clock import SystemClock
from clawplane.runner.sessions.trial import Trial
from clawplane.sandbox.launch import Sandbox
async def main(memory):
    with tempfile.TemporaryDirectory() as state:
        sandbox = await Sandbox.open(state_directory=pathlib.Path(state))
        trial = Trial(sandbox, memory, clock=SystemClock())
        trial.begin()
        await trial.passed()
        await sandbox.close()
asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory, verdict: Path) -> Iterator[Plane]:
    """One running clawplane for every test that does not break it."""
    plane = Plane(tmp_path_factory.mktemp("plane"), profiles="bare,data")
    plane.know(verdict)
    plane.up()
    yield plane
    plane.stop()


@contextmanager
def _planes(directory: Path, verdict: Path) -> Iterator[Callable[..., Plane]]:
    planes: list[Plane] = []

    def make(name: str = "plane", **options: Any) -> Plane:
        (directory / name).mkdir()
        plane = Plane(directory / name, **options)
        plane.know(verdict)
        planes.append(plane)
        return plane

    yield make
    for plane in planes:
        plane.stop()


@pytest.fixture
def make_plane(tmp_path: Path, verdict: Path) -> Iterator[Callable[..., Plane]]:
    """Make planes that a test may break; each is stopped at its end."""
    with _planes(tmp_path, verdict) as make:
        yield make


@pytest.fixture(scope="module")
def make_module_plane(tmp_path_factory: pytest.TempPathFactory, verdict: Path) -> Iterator[Callable[..., Plane]]:
    """Make planes with settings of their own for all tests of a file."""
    with _planes(tmp_path_factory.mktemp("planes"), verdict) as make:
        yield make


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """What sessions may reach."""
    with outside_in(tmp_path_factory.mktemp("outside")) as found:
        yield found


@pytest.fixture(scope="module")
def open_plane(make_module_plane: Callable[..., Plane], outside: Outside) -> Plane:
    """A plane whose operator allows the outside by its name and ports; all other servers of this host stay closed."""
    plane = make_module_plane()
    outside.allow(plane)
    return plane


@pytest.fixture(scope="module")
def open_http(open_plane: Plane) -> Iterator[httpx.Client]:
    with open_plane.http() as client:
        yield client
