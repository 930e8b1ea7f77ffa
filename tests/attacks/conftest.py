"""A sandbox to attack, once as root and once as an ordinary user, and the host's invariants after every attack.

The sandbox lives in a process of its own (driver.py), which alone may be a different user. Started by root, its user
ids belong to no other test, so that whatever of them is left on the host is ours. An ordinary user runs other things
under its id, so there the processes are those below the driver, which inherits what a guest leaves outside.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 30.0
SECRET = "canary-5f1d9c07-never-to-be-seen-inside"
PYTHON = os.path.realpath(sys.executable)
UIDS_PER_ARENA = 64

PRELUDE = '''
import ctypes, errno, json, os, signal, socket, subprocess, sys, time
_libc = ctypes.CDLL(None, use_errno=True)
def system_call(number, *arguments):
    """Name of the error a raw system call ends with, or "done"."""
    values = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if _libc.syscall(ctypes.c_long(number), *values) >= 0:
        return "done"
    return errno.errorcode[ctypes.get_errno()]
def tried(function, *arguments, **options):
    """Name of the error a call ends with, or "done"."""
    try:
        function(*arguments, **options)
    except OSError as problem:
        return errno.errorcode.get(problem.errno, str(problem))
    return "done"
def say(value):
    print(json.dumps(value), flush=True)
'''


@dataclass
class Guest:
    """One running guest, seen from the test."""

    arena: Arena
    number: int
    pid: int = 0
    out: bytes = b""
    err: bytes = b""
    verdict: dict[str, Any] | None = None

    def wait_for(self, text: bytes) -> None:
        """Return when the guest has printed `text`."""
        self.arena.pump(lambda: text in self.out or self.verdict is not None)
        assert text in self.out, (self.verdict, self.err)

    def end(self, patience: float = PATIENCE) -> dict[str, Any]:
        """Wait for the verdict."""
        self.arena.pump(lambda: self.verdict is not None, patience)
        assert self.verdict is not None
        return self.verdict

    def stop(self) -> dict[str, Any]:
        """Ask the guest to end, as an abort does, and wait for the verdict."""
        self.arena.send({"id": self.number, "do": "stop"})
        return self.end()

    def kill(self) -> dict[str, Any]:
        """Kill the guest and wait for the verdict."""
        self.arena.send({"id": self.number, "do": "kill"})
        return self.end()

    def said(self) -> Any:
        """Return the JSON value of the guest's last line, after a good end."""
        verdict = self.end()
        assert (verdict["reason"], verdict["exit_code"]) == ("exit", 0), (verdict, self.out[-2000:], self.err[-2000:])
        return json.loads(self.out.splitlines()[-1])


@dataclass
class Arena:
    """A sandbox in a process of its own."""

    user: str
    uid: int
    first_uid: int
    directory: Path
    process: subprocess.Popen[bytes]
    mode: str = ""
    guests: dict[int, Guest] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _unread: bytes = b""

    def start(self, argv: Sequence[str], **policy: Any) -> Guest:
        """Start a program in the sandbox and return when set-up is over."""
        return self._start({"do": "run", "argv": list(argv), **policy})

    def python(self, code: str, **policy: Any) -> Guest:
        """Start Python code, which may use the prelude."""
        return self.start([PYTHON, "-I", "-c", PRELUDE + code], **policy)

    def forked(self, code: str, **policy: Any) -> Guest:
        """Start Python code in a fork of the zygote, as Python Workers are."""
        script = self.directory / f"script-{next(self._numbers)}.py"
        script.write_text(PRELUDE + code)
        script.chmod(0o644)
        mounts = [["ReadOnly", {"source": str(script), "target": "/run/attack.py"}], *policy.pop("mounts", [])]
        return self._start({"do": "python", "script": "/run/attack.py", "mounts": mounts, **policy})

    def ask(self, code: str, **policy: Any) -> Any:
        """Run Python code and return the JSON value of its last line."""
        return self.python(code, **policy).said()

    def shell(self, script: str, **policy: Any) -> Guest:
        """Start a shell script."""
        return self.start(["/bin/sh", "-c", script], **policy)

    def workspace(self, name: str) -> Path:
        """Make a host directory that belongs to the runner's user; mount it with `Writable`."""
        path = self.directory / "state" / name
        path.mkdir()
        os.chown(path, self.uid, -1)
        return path

    def send(self, request: Mapping[str, Any]) -> None:
        """Send one request to the driver."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def pump(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Take events in until `condition` holds, at most `patience` seconds."""
        end = time.monotonic() + patience
        while not condition():
            left = end - time.monotonic()
            assert left > 0, "waited in vain for the sandbox"
            self._take_in(left)

    def cgroup_bases(self) -> list[str]:
        """Return the driver's own directories in the cgroup hierarchies."""
        return _bases(self.process.pid)

    def own_uids(self) -> set[int]:
        """Return every uid that belongs to this arena's guests, and the ordinary user's own."""
        return {self.uid} if self.uid else set(range(self.first_uid, self.first_uid + UIDS_PER_ARENA))

    def processes(self) -> list[int]:
        """Return the processes that could be the guests'."""
        return _descendants(self.process.pid) if os.geteuid() else _pids()

    def _start(self, request: dict[str, Any]) -> Guest:
        number = next(self._numbers)
        guest = self.guests[number] = Guest(self, number)
        self.send({"id": number, **request})
        self.pump(lambda: guest.pid != 0 or guest.verdict is not None)
        return guest

    def _take_in(self, patience: float) -> None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], patience)
        if not ready:
            return
        block = os.read(self.process.stdout.fileno(), 1 << 20)
        assert block, "the driver died"
        *lines, self._unread = (self._unread + block).split(b"\n")
        for line in lines:
            self._handle(json.loads(line))

    def _handle(self, event: dict[str, Any]) -> None:
        if event["id"] == 0:
            assert event["event"] == "ready", event
            self.mode = event["mode"]
            return
        guest = self.guests[event["id"]]
        if event["event"] == "ready":
            guest.pid = event["pid"] or -1
        elif event["event"] == "output":
            data = base64.b64decode(event["data"])
            if event["stream"] == "stdout":
                guest.out += data
            else:
                guest.err += data
        else:
            guest.verdict = event["verdict"]


def _open(user: str, directory: Path) -> Arena:
    here = os.geteuid()
    uid = 0 if user == "root" else (here or 61_000 + os.getpid() % 4_000)
    first_uid = 2_000_000 + (os.getpid() % 10_000) * UIDS_PER_ARENA
    (directory / "state").mkdir()
    directory.chmod(0o755)
    if here == 0 and uid:
        os.chown(directory / "state", uid, uid)
    change = {"user": uid, "group": uid, "extra_groups": []} if here == 0 and uid else {}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("driver.py")), str(directory / "state"), str(first_uid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "CLAWPLANE_API_KEY": SECRET, "HOME": "/nonexistent"},
        cwd=directory,
        **change,  # type: ignore[call-overload]
    )
    arena = Arena(user, uid, first_uid, directory, process)
    arena.pump(lambda: bool(arena.mode))
    assert arena.forked("say('warm')").said() == "warm"  # both zygotes run from here on and stay
    return arena


@pytest.fixture(scope="session", params=["root", "ordinary"])
def fortress(request: pytest.FixtureRequest) -> Iterator[Arena]:
    """A sandbox that serves a whole test session."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("only root can run the sandbox as root")
    directory = Path(tempfile.mkdtemp(prefix="clawplane-attacks-"))
    arena = _open(request.param, directory)
    yield arena
    assert arena.process.stdin is not None
    arena.process.stdin.close()
    try:
        arena.process.wait(PATIENCE)
    finally:
        arena.process.kill()
        arena.process.wait()
        assert arena.process.stdout is not None
        arena.process.stdout.close()
    assert not _mounts_in(directory)
    shutil.rmtree(directory)


@dataclass(frozen=True)
class Traces:
    """What guests could leave on the host."""

    processes: frozenset[int]
    mounts: frozenset[str]
    ipc: frozenset[str]
    shared_memory: frozenset[str]
    keys: frozenset[str]
    groups: frozenset[str]


def _traces(arena: Arena) -> Traces:
    uids = arena.own_uids()
    return Traces(
        processes=frozenset(pid for pid in arena.processes() if _uid(pid) in uids and not _is_zygote(pid)),
        mounts=frozenset(_mounts_in(arena.directory)),
        ipc=frozenset(line for name in ("shm", "sem", "msg") for line in _owned_ipc(name, uids)),
        shared_memory=frozenset(each.name for each in os.scandir("/dev/shm") if _owner(each) in uids),
        keys=frozenset(line for line in _lines("/proc/keys") if line.split()[5:6] and int(line.split()[5]) in uids),
        groups=frozenset(_guest_groups(arena.process.pid)),
    )


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for task in _listing(f"/proc/{waiting.pop()}/task"):
            for line in _lines(f"{task}/children"):
                found += map(int, line.split())
                waiting += map(int, line.split())
    return found


def _listing(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        return [each.path for each in os.scandir(path)]
    return []


def _uid(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("State:") and line.split()[1] in "ZX":
                return -1
            if line.startswith("Uid:"):
                return int(line.split()[1])
    return -1


def _is_zygote(pid: int) -> bool:
    """Tell whether a process is a zygote or its outer half, which come and go on their own."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        return words.startswith(b"zygote\0") or b"inside/main.py" in words
    return True


def _owner(entry: os.DirEntry[str]) -> int:
    with contextlib.suppress(OSError):
        return entry.stat(follow_symlinks=False).st_uid
    return -1


def _lines(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(path).read_text().splitlines()
    return []


def _owned_ipc(name: str, uids: set[int]) -> list[str]:
    head, *rows = _lines(f"/proc/sysvipc/{name}") or [""]
    column = head.split().index("uid") if "uid" in head.split() else 0
    return [row for row in rows if int(row.split()[column]) in uids]


def _mounts_in(directory: Path) -> list[str]:
    return [line for line in _lines("/proc/self/mountinfo") if str(directory) in line]


def _guest_groups(driver: int) -> list[str]:
    return sorted(
        path for base in _bases(driver) for path in _below(base) if os.path.basename(path).startswith("guest-")
    )


def _bases(driver: int) -> list[str]:
    """Return the runner's directories in every cgroup hierarchy; others come and go meanwhile."""
    points = [line.split(" ")[4] for line in _lines("/proc/self/mountinfo") if " - cgroup" in line]
    names = {f"clawplane-{driver}", f"clawplane-{driver}.1"}
    return [path for point in points for path in _below(point) if os.path.basename(path) in names]


def _below(top: str) -> list[str]:
    return [os.path.join(directory, name) for directory, names, _ in os.walk(top) for name in names]


@dataclass(frozen=True)
class Canary:
    """A file on the host that no guest may touch."""

    path: Path
    before: tuple[Any, ...]

    @classmethod
    def at(cls, path: Path) -> Canary:
        return cls(path, cls._look(path))

    @staticmethod
    def _look(path: Path) -> tuple[Any, ...]:
        found = path.stat()
        content = path.read_bytes() if os.access(path, os.R_OK) else b""
        return content, found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns

    def check(self) -> None:
        assert self._look(self.path) == self.before, f"{self.path} was touched"


@pytest.fixture(scope="session")
def interpreter() -> Canary:
    """This host's interpreter before any attack: looked at once, for it is large."""
    return Canary.at(Path(PYTHON))


@pytest.fixture
def canary(fortress: Arena) -> Path:
    """A secret file outside every mount, readable by everybody on the host."""
    path = fortress.directory / "canary"
    path.write_text(SECRET)
    path.chmod(0o666)
    return path


@pytest.fixture
def arena(fortress: Arena, canary: Path, interpreter: Canary) -> Iterator[Arena]:
    """The sandbox; afterwards the host must be as before (invariants I1, I2, I5 of the attack list)."""
    watched = [Canary.at(canary), Canary.at(Path("/etc/passwd")), interpreter]
    before = _traces(fortress)
    yield fortress
    for guest in fortress.guests.values():
        if guest.verdict is None:
            guest.kill()
    fortress.guests.clear()
    for each in watched:
        each.check()
    end = time.monotonic() + PATIENCE / 3
    after = _traces(fortress)
    while not _no_more_than(before, after) and time.monotonic() < end:
        after = _traces(fortress)
    assert _no_more_than(before, after), f"left on the host: {after}, before: {before}"
    assert fortress.ask("say('alive')") == "alive"


def _no_more_than(before: Traces, after: Traces) -> bool:
    """Tell whether nothing came to stay; what went may be another test's."""
    came = [getattr(after, kind) - getattr(before, kind) for kind in ("processes", "ipc", "shared_memory", "keys")]
    return not any(came) and after.mounts == before.mounts and not after.groups


@pytest.fixture
def throwaway(fortress: Arena) -> Iterator[Arena]:
    """A sandbox of the same user that the test may destroy."""
    directory = Path(tempfile.mkdtemp(prefix="clawplane-attacks-"))
    arena = _open(fortress.user, directory)
    yield arena
    with contextlib.suppress(ProcessLookupError):
        os.kill(arena.process.pid, signal.SIGKILL)
    arena.process.wait()
    for pipe in (arena.process.stdin, arena.process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    shutil.rmtree(directory, ignore_errors=True)
