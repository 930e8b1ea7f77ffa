"""Start the real interpreter in a process of its own, with pipes and a socket pair, as a runner would.

REPL_PYTHON in the environment names another Python to run it with.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox import repl_wire as wire

PATIENCE = 30.0
TESTS = str(Path(__file__).parents[3])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)  # for interpreter_attacks

_PYTHON = os.environ.get("REPL_PYTHON", sys.executable)
_SOURCE = Path(wire.__file__).parents[2]
_START = """
import os, sys
if os.fork() == 0:
    from clawplane.sandbox.inside.repl.main import main
    main(int(sys.argv[1]))
os.closerange(0, 256)
while True:
    try:
        os.wait()
    except ChildProcessError:
        os._exit(0)
"""
"""A process that reaps, as pid 1 of a sandbox does, and the interpreter as its child."""
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
NONCE = "n0nce"


class InterpreterEnded(EOFError):
    """The control socket closed before the answer came."""


@dataclass
class Ran:
    """Everything that belongs to one run."""

    done: wire.Done
    shown: list[wire.Shown] = field(default_factory=list)
    cleared: list[wire.Cleared] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""

    @property
    def text(self) -> str:
        """The plain text of the last expression, "" without one."""
        return next((each.data["text/plain"] for each in self.shown if each.kind == "result"), "")

    @property
    def error(self) -> str:
        """The last line of the traceback, "" without one."""
        return self.done.error.traceback[-1] if self.done.error else ""

    @property
    def traceback(self) -> str:
        """The whole traceback."""
        return "\n".join(self.done.error.traceback) if self.done.error else ""


class Repl:
    """One end of a conversation: control socket, stdout and stderr."""

    def __init__(self, control: socket.socket, stdout: int, stderr: int) -> None:
        self._control = control
        self._outputs = {stdout: "stdout", stderr: "stderr"}
        self._received = {"stdout": bytearray(), "stderr": bytearray()}
        self._frames = wire.Frames()
        self._waiting: list[wire.FromGuest] = []
        self._selector = selectors.DefaultSelector()
        for file in (control.fileno(), stdout, stderr):
            os.set_blocking(file, False)
            self._selector.register(file, selectors.EVENT_READ)
        self._number = 0
        self.ready = self.answer(wire.Ready)

    def next(self, seconds: float = PATIENCE) -> wire.FromGuest:
        """Return the next frame; output is collected meanwhile."""
        deadline = time.monotonic() + seconds
        while not self._waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no frame came")
            for key, _ in self._selector.select(left):
                self._take(key.fd)
        return self._waiting.pop(0)

    def answer(self, kind: type[Any], seconds: float = PATIENCE) -> Any:
        """Return the next frame, which is of this kind."""
        frame = self.next(seconds)
        assert isinstance(frame, kind), frame
        return frame

    def ask(self, op: wire.Op, descriptors: tuple[int, ...] = (), **members: Any) -> str:
        """Send a request and return its id."""
        self._number += 1
        self._control.setblocking(True)
        self._control.sendall(wire.request(op, str(self._number), NONCE, **members))
        if descriptors:
            socket.send_fds(self._control, [wire.DESCRIPTORS], list(descriptors))
        self._control.setblocking(False)
        return str(self._number)

    def start(self, code: str, context: str = "") -> str:
        """Send a cell; `finish` gets its end."""
        return self.ask("run", code=code, context=context)

    def finish(self, seconds: float = PATIENCE) -> Ran:
        """Return the end of the cell that runs."""
        shown: list[wire.Shown] = []
        cleared: list[wire.Cleared] = []
        while True:
            frame = self.next(seconds)
            if isinstance(frame, wire.Shown):
                shown.append(frame)
            elif isinstance(frame, wire.Cleared):
                cleared.append(frame)
            else:
                break
        assert isinstance(frame, wire.Done), frame
        assert (frame.id, frame.nonce) == (str(self._number), NONCE)
        return Ran(frame, shown, cleared, self.output("stdout"), self.output("stderr"))

    def run(self, code: str, context: str = "") -> Ran:
        """Run a cell to its end."""
        self.start(code, context)
        return self.finish()

    def value(self, code: str) -> str:
        """Return the plain text of a cell that must succeed."""
        ran = self.run(code)
        assert ran.done.status == "ok", ran.traceback
        return ran.text

    def output(self, name: str) -> str:
        """Return what was written since the last call."""
        for file in self._outputs:
            self._take(file)
        content = self._received[name].decode(errors="replace")
        self._received[name].clear()
        return content

    def wait_for_output(self, text: str) -> None:
        """Return when stdout has this text."""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self._received["stdout"]:
            assert time.monotonic() < deadline, "the text was not printed"
            for key, _ in self._selector.select(deadline - time.monotonic()):
                self._take(key.fd)

    def copy(self, purpose: str) -> socket.socket | str:
        """Make a copy; returns the socket it waits on, or why there is none."""
        ours, theirs = socket.socketpair()
        self.ask("copy", (theirs.fileno(),), purpose=purpose)
        theirs.close()
        refusal: str = self.answer(wire.Copied).refusal
        if refusal:
            ours.close()
            return refusal
        return ours

    def close(self) -> None:
        """Let go of everything."""
        self._selector.close()
        self._control.close()
        for file in self._outputs:
            os.close(file)

    def _take(self, file: int) -> None:
        try:
            chunk = os.read(file, 1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            chunk = b""
        if file in self._outputs:
            self._received[self._outputs[file]] += chunk
            if not chunk and file in self._selector.get_map():
                self._selector.unregister(file)
        elif chunk:
            self._waiting.extend(wire.parse(body) for body in self._frames.feed(chunk))
        else:
            raise InterpreterEnded


class Process(Repl):
    """An interpreter that is a child of the test."""

    def __init__(self, directory: Path) -> None:
        ours, theirs = socket.socketpair()
        outputs, errors = os.pipe(), os.pipe()
        self._temporary = tempfile.mkdtemp()  # short: multiprocessing makes sockets in it
        self.process = subprocess.Popen(
            [_PYTHON, "-s", "-c", _START, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=outputs[1],
            stderr=errors[1],
            pass_fds=[theirs.fileno()],
            cwd=directory,
            env={**_ENVIRONMENT, "PYTHONPATH": str(_SOURCE), "HOME": str(directory), "TMPDIR": self._temporary},
        )
        for file in (outputs[1], errors[1]):
            os.close(file)
        theirs.close()
        super().__init__(ours, outputs[0], errors[0])

    def interrupt(self) -> None:
        """Do what a runner does to interrupt."""
        os.kill(self.ready.pid, signal.SIGINT)

    def close(self) -> None:
        super().close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.ready.pid, signal.SIGKILL)
        try:
            self.process.wait(PATIENCE)  # the last copy has ended
        finally:
            self.process.kill()
            shutil.rmtree(self._temporary, ignore_errors=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Return a function that starts one more interpreter."""
    started: list[Process] = []

    def start_one() -> Process:
        started.append(Process(tmp_path))
        return started[-1]

    yield start_one
    for each in started:
        each.close()


@pytest.fixture
def repl(start: Callable[[], Process]) -> Process:
    """Return a fresh interpreter."""
    return start()


@pytest.fixture
def needs(repl: Process) -> Callable[[str], Process]:
    """Return a function that skips the test unless the interpreter can import a package."""

    def check(name: str) -> Process:
        if repl.run(f"import {name}").done.status != "ok":
            pytest.skip(f"the interpreter has no {name}")
        return repl

    return check


@pytest.fixture
def resume() -> Iterator[Callable[[socket.socket], Repl]]:
    """Return a function that makes an interpreter of a waiting copy."""
    resumed: list[Repl] = []

    def resume_one(waiting: socket.socket) -> Repl:
        frames = wire.Frames()
        waiting.settimeout(PATIENCE)
        bodies: list[bytes] = []
        while not bodies:
            bodies = list(frames.feed(waiting.recv(4096)))
        assert isinstance(wire.parse(bodies[0]), wire.Ready)
        ours, theirs = socket.socketpair()
        outputs, errors = os.pipe(), os.pipe()
        waiting.sendall(wire.request("resume", "r", NONCE))
        socket.send_fds(waiting, [wire.DESCRIPTORS], [outputs[1], errors[1], theirs.fileno()])
        theirs.close()
        for file in (outputs[1], errors[1]):
            os.close(file)
        resumed.append(Repl(ours, outputs[0], errors[0]))
        waiting.close()
        return resumed[-1]

    yield resume_one
    for each in resumed:
        each.close()
