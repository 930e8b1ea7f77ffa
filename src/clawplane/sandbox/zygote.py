"""Start a zygote, hand it requests, and notice when it dies: the supervisor's side of inside/zygote.py.

Theory of operation
- Started by exec with three environment variables, the control socket as standard input and nothing else open.
- A request is one message with descriptors; no reply is awaited (see inside/zygote.py). Requests in flight are bounded,
  because descriptors that nobody has received yet count against the user's limit.
- A zygote that died is started again by the next request. What was in its queue fails by itself: the sockets close.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clawplane.sandbox.readiness import readable, writable

_PROGRAM: Final = Path(__file__).parent / "inside" / "main.py"
_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"}
_LARGEST_ANSWER: Final = 1 << 16
_START_SECONDS: Final = 60.0
_IN_FLIGHT: Final = 16
_TOLD_OF_FAILURE: Final = 4000


class ZygoteError(Exception):
    """A zygote could not be started; the message holds its own words."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes one zygote differ from another."""

    key: str
    python: str
    preload: tuple[str, ...]
    site_directories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """What all zygotes of one sandbox share."""

    directory: Path
    privileged: bool
    cgroups: bool


class _Incarnation:
    """One running zygote process."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, pidfd: int, answer: dict[str, Any]):
        self.process = process
        self.control = control
        self.pidfd = pidfd
        self.answer = answer


class Zygote:
    """A warm interpreter that forks guests, restarted when it dies."""

    def __init__(self, recipe: Recipe, terms: Terms, executor: Executor, number: int) -> None:
        self.recipe = recipe
        self._terms = terms
        self._executor = executor
        self._staging = terms.directory / f"zygote-{number}"
        self._alive: _Incarnation | None = None
        self._starting = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Return the host pid of the running zygote's outer process."""
        return self._alive.process.pid if self._alive else None

    @property
    def slots(self) -> asyncio.Semaphore:
        """Hold one from before `submit` until the child has spoken."""
        return self._slots

    async def start(self) -> None:
        """Make sure a zygote runs; raises ZygoteError."""
        async with self._starting:
            if self._closed:
                raise ZygoteError(f"zygote {self.recipe.key} is closed")
            if self._alive is not None and self._alive.process.poll() is None:
                return
            self._bury()
            self._alive = await self._start()

    async def submit(self, descriptors: Sequence[int], *, outputs: int) -> None:
        """Hand over one request (see inside/child.Descriptors); starts the zygote anew when it is dead."""
        for last_try in (False, True):
            await self.start()
            try:
                async with self._sending:
                    await self._send(bytes([outputs]), descriptors)
                return
            except (BrokenPipeError, ConnectionError, OSError) as problem:
                self._give_up()
                if last_try:
                    raise ZygoteError(f"zygote {self.recipe.key} dies when it is asked: {problem}") from problem

    async def close(self) -> None:
        """End the zygote, and with it every guest it has forked."""
        self._closed = True
        async with self._starting:
            if self._alive is not None:
                self._alive.control.close()
                self._alive.process.kill()
                await readable(self._alive.pidfd)
                self._bury()
            await asyncio.get_running_loop().run_in_executor(self._executor, self._remove_staging)

    async def _start(self) -> _Incarnation:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        words = os.memfd_create("zygote-stderr", os.MFD_CLOEXEC)
        loop = asyncio.get_running_loop()
        try:
            process = await self._spawned(theirs, words)
        except BaseException as problem:
            ours.close()
            os.close(words)
            if isinstance(problem, OSError):
                raise ZygoteError(f"cannot start {self.recipe.python}: {problem.strerror}") from problem
            raise
        finally:
            theirs.close()
        try:
            answer = await asyncio.wait_for(self._converse(ours), _START_SECONDS)
        except (OSError, TimeoutError) as problem:
            answer = {"failed": f"{problem or 'no answer'}"}
        except BaseException:  # nobody waits for it any more
            process.kill()
            process.wait()
            ours.close()
            os.close(words)
            raise
        if "failed" in answer:
            process.kill()
            await loop.run_in_executor(self._executor, process.wait)
            said = os.pread(words, _TOLD_OF_FAILURE, 0).decode(errors="replace")
            ours.close()
            os.close(words)
            raise ZygoteError(f"zygote {self.recipe.key} did not start: {answer['failed']}{said}".rstrip())
        os.close(words)
        return _Incarnation(process, ours, os.pidfd_open(process.pid), answer)

    async def _spawned(self, control: socket.socket, words: int) -> subprocess.Popen[bytes]:
        """Start the process in a thread; when nobody waits for it any more, end it again."""
        spawning = asyncio.get_running_loop().run_in_executor(self._executor, self._spawn, control, words)
        try:
            return await asyncio.shield(spawning)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                process = await spawning
                process.kill()
                process.wait()
            raise

    def _spawn(self, control: socket.socket, words: int) -> subprocess.Popen[bytes]:
        self._staging.mkdir(mode=0o755, exist_ok=True)
        return subprocess.Popen(
            [self.recipe.python, "-s", str(_PROGRAM)],
            stdin=control.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=words,
            cwd="/",
            env=_ENVIRONMENT,
            close_fds=True,
            start_new_session=True,
        )

    async def _converse(self, control: socket.socket) -> dict[str, Any]:
        configuration = {
            "staging": str(self._staging),
            "privileged": self._terms.privileged,
            "cgroups": self._terms.cgroups,
            "preload": list(self.recipe.preload),
            "site_directories": list(self.recipe.site_directories),
        }
        control.send(json.dumps(configuration).encode())
        await readable(control.fileno())
        answer = control.recv(_LARGEST_ANSWER)
        if not answer:
            return {"failed": "it ended at once; "}
        told: dict[str, Any] = json.loads(answer)
        return told

    async def _send(self, message: bytes, descriptors: Sequence[int]) -> None:
        incarnation = self._alive
        if incarnation is None:
            raise BrokenPipeError("the zygote is gone")
        while True:
            try:
                socket.send_fds(incarnation.control, [message], list(descriptors))
            except BlockingIOError:
                await writable(incarnation.control.fileno())
            else:
                return

    def _give_up(self) -> None:
        if self._alive is not None:
            self._alive.process.kill()
            self._alive.process.wait()  # it was dead or is now; nothing it forked outlives it

    def _bury(self) -> None:
        if self._alive is not None:
            self._alive.process.wait()
            self._alive.control.close()
            os.close(self._alive.pidfd)
            self._alive = None

    def _remove_staging(self) -> None:
        with contextlib.suppress(OSError):
            self._staging.rmdir()  # what was mounted there was visible to the zygote alone
