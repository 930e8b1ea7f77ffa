"""Whole planes to attack from inside their sessions, with the runner as root and as an ordinary user.

A house is `clawplane up` with one neighbour living in it. After every test the session under attack is deleted, and the
host must be as before: canary files (I1), processes, mounts, IPC objects, keys and cgroups (I2, I5), the server answers
(I3), the neighbour has what it had and sees nothing (I4), and no workspace is left over (I6).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))


def _loaded(name: str, path: Path) -> ModuleType:
    """Return another conftest as a module: what it defines beside fixtures is used here, too."""
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


host = _loaded("attacks_conftest", TESTS / "attacks" / "conftest.py")
paths = _loaded("paths_conftest", TESTS / "paths" / "conftest.py")
PATIENCE = 30.0
FEW_SLOTS = 20
ROOTS_GUESTS = range(200_000, 204_096)
"""The user ids that a runner of root gives to its guests."""
KNOWN = """
import asyncio, pathlib, sys, tempfile
from clawplane.domain.clock import SystemClock
from clawplane.runner.sessions.trial import Trial
from clawplane.sandbox.launch import Sandbox
from clawplane.sandbox.selftest import Report
async def nothing(sandbox):
    return Report(user="tests", cgroup_mode=sandbox.cgroup_mode, features=[], results=[])
async def main(memory):
    with tempfile.TemporaryDirectory() as state:
        sandbox = await Sandbox.open(state_directory=pathlib.Path(state))
        trial = Trial(sandbox, memory, clock=SystemClock(), attacks=nothing)
        trial.begin()
        await trial.passed()
        await sandbox.close()
asyncio.run(main(pathlib.Path(sys.argv[1])))
"""
"""Lets a runner of this user believe that its host holds: what it would try first is tried here, and much more."""
TRACES = ("processes", "mounts", "ipc", "shared_memory", "keys", "groups")


class Session:
    """One session, over HTTP."""

    def __init__(self, http: httpx.Client, **options: Any) -> None:
        self.http = http
        made = http.post("/v1/sessions", json={"profile": "bare", **options})
        assert made.status_code == 201, made.text
        self.id: str = made.json()["id"]
        self.path = f"/v1/sessions/{self.id}"

    def call(self, tool: str, **parameters: Any) -> httpx.Response:
        """Call a tool, whatever it answers."""
        return self.http.post(f"/v1/tools/{tool}", json={"session_id": self.id, **parameters})

    def run(self, language: str, code: str, **more: Any) -> dict[str, Any]:
        """Execute code and return its result."""
        body = {"tool": language, "code": code, **more}
        answer = self.http.post(f"{self.path}/exec", json=body)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def python(self, code: str, **more: Any) -> dict[str, Any]:
        return self.run("python", code, **more)

    def shell(self, code: str, **more: Any) -> dict[str, Any]:
        return self.run("shell", code, **more)

    def value(self, code: str) -> str:
        """Return the text of the last expression of code that must succeed."""
        result = self.python(code)
        assert result["error"] is None, result
        return str(result["results"][-1]["text/plain"])

    def reset(self) -> None:
        """Forget all variables."""
        answer = self.call("reset_repl")
        assert (answer.status_code, answer.json()["stdout"]) == (200, "Python REPL reset.\n"), answer.text

    def delete(self) -> None:
        self.http.delete(self.path)


@dataclass(frozen=True)
class Runner:
    """The process that holds the sandboxes."""

    pid: int


@dataclass
class House:
    """A running plane, and what a look at the host needs to know of it."""

    user: str
    uid: int
    directory: Path
    plane: Any
    process: Runner
    http: httpx.Client
    neighbour: Session
    lives: list[Session] = field(default_factory=list)

    def begin(self, **options: Any) -> Session:
        """Create a session that is deleted with the test."""
        self.lives.append(Session(self.http, **options))
        return self.lives[-1]

    def own_uids(self) -> set[int]:
        """Return the user ids of guests."""
        return {self.uid} if self.uid else set(ROOTS_GUESTS)

    def processes(self) -> list[int]:
        """Return everything below the runner."""
        return list(host._descendants(self.process.pid))

    def counts_memory(self) -> bool:
        """Tell whether the kernel counts the memory of a session."""
        return bool(self.plane.counts_memory())

    def leave(self) -> None:
        """Delete what the test made."""
        while self.lives:
            self.lives.pop().delete()

    def workspaces(self) -> list[str]:
        """Return the workspaces of sessions on the disk."""
        return sorted(os.listdir(self.plane.data / "runner" / "unnamed"))


def _open(user: str, uid: int, directory: Path, settings: Mapping[str, str]) -> House:
    """Start a plane as a user, with a neighbour in it."""
    as_another = uid != os.geteuid()
    prefix = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all") if as_another else ()
    data, home = directory / "data", directory / "home"
    (data / "runner").mkdir(parents=True)
    home.mkdir()
    for path in (directory, data, data / "runner", home):
        os.chown(path, uid, uid)
    plane = paths.Plane(data, prefix=prefix)
    environment = plane.environment | {"HOME": str(home), "TMPDIR": str(directory), **settings}
    known = [*prefix, sys.executable, "-c", KNOWN, str(data / "runner" / "selftest.json")]
    subprocess.run(known, env=environment, cwd=directory, timeout=60, check=True)
    with ExitStack() as failed:
        failed.callback(plane.stop)
        plane.spawn("up", "--port", str(plane.port), "--data", str(data), until="Ready:", environment=environment)
        http = failed.enter_context(plane.http())
        neighbour = Session(http, undo=0, sleep_after=0)
        assert neighbour.value("mine = 'the neighbour'\nopen('own', 'w').write(mine)") == "13"
        below = [pid for pid in host._descendants(plane.processes[0].pid) if b"\0runner\0" in command_of(pid)]
        house = House(user, uid, directory, plane, Runner(below[0]), http, neighbour)
        failed.pop_all()
        return house


def command_of(pid: int) -> bytes:
    """Return the command line of a process, nothing when it has ended meanwhile."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextmanager
def opened(user: str, **settings: str) -> Iterator[House]:
    """Run a plane as root or as an ordinary user."""
    here = os.geteuid()
    if user == "root" and here:
        pytest.skip("only root can run a runner as root")
    uid = 0 if user == "root" else here or 60_500 + os.getpid() % 400
    directory = Path(tempfile.mkdtemp(prefix="clawplane-house-"))
    directory.chmod(0o755)
    house = _open(user, uid, directory, settings)
    try:
        yield house
    finally:
        house.http.close()
        house.plane.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session", params=["root", "ordinary"])
def estate(request: pytest.FixtureRequest) -> Iterator[House]:
    """A plane that serves all tests of sessions."""
    with opened(request.param) as house:
        yield house


@pytest.fixture(params=["root", "ordinary"])
def narrow(request: pytest.FixtureRequest) -> Iterator[House]:
    """A plane of its own with room for few sessions at once, where nobody waits long for it."""
    room = {"CLAWPLANE_SESSION_SLOTS": str(FEW_SLOTS), "CLAWPLANE_SESSION_PLACING_SECONDS": "1"}
    with opened(request.param, **room) as house:
        yield house


@pytest.fixture
def few_slots() -> int:
    """How many sessions the narrow house holds."""
    return FEW_SLOTS


@pytest.fixture
def house(estate: House, interpreter: Any) -> Iterator[House]:
    """A plane to attack; afterwards the host is as before."""
    canary = estate.directory / "canary"
    canary.write_text(host.SECRET)
    canary.chmod(0o666)
    watched = [host.Canary.at(canary), host.Canary.at(Path("/etc/passwd")), interpreter]
    before, kept = host._traces(estate), estate.workspaces()
    yield estate
    estate.leave()
    for each in watched:
        each.check()
    left = _left(estate, before)
    end = time.monotonic() + PATIENCE
    while (left or estate.workspaces() != kept) and time.monotonic() < end:
        left = _left(estate, before)
    assert left == {}, "left on the host"
    assert estate.workspaces() == kept
    assert estate.http.get("/healthz").status_code == 200
    look = "import os\nmine, open('own').read(), os.listdir('/workspace'), os.listdir('/tmp'), os.listdir('/dev/shm')"
    assert estate.neighbour.value(look) == "('the neighbour', 'the neighbour', ['own'], [], [])"


def _left(house: House, before: Any) -> dict[str, Any]:
    after = host._traces(house)
    came = {kind: getattr(after, kind) - getattr(before, kind) for kind in TRACES}
    return {kind: found for kind, found in came.items() if found}


@pytest.fixture
def begin(house: House) -> Callable[..., Session]:
    """Create sessions that are deleted with the test."""
    return house.begin


@pytest.fixture
def session(house: House) -> Session:
    """A session to attack from."""
    return house.begin()
