"""Run programs WITHOUT any isolation, for operators who said so with a flag that is called unsafe.

The guest is an ordinary child process of the same user: it reads and writes what that user can, reaches the network,
and sees every other process. What remains is bookkeeping: a process group that can be ended, rlimits, a wall clock, an
output limit. The policy's mounts become paths: what a guest would see at a target is looked up at its source (an
overlay is copied first), in the arguments, the working directory and the environment. Names of the policy are not
resolved, and two guests cannot listen on the same port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clawplane.sandbox.output import Stream
from clawplane.sandbox.policy import EndReason, Limits, Listener, Overlay, Policy, Scratch, Verdict
from clawplane.sandbox.process import Process
from clawplane.sandbox.readiness import readable

_LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 1024


@dataclass(frozen=True, slots=True)
class UnsafeZygote:
    """Remembers an interpreter; nothing is kept warm here."""

    key: str
    python: str


class UnsafeLauncher:
    """The surface of `Sandbox` without a sandbox."""

    def __init__(self, *, state_directory: Path) -> None:
        """Say in the log what this is; copies of overlays go below `state_directory`."""
        _LOG.warning("UNSAFE: programs run without isolation, with all rights of user %d on this host", os.geteuid())
        self._directory = state_directory
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="unsafe")
        self._following: dict[UnsafeProcess, asyncio.Task[None]] = {}

    @property
    def cgroup_mode(self) -> str:
        """Say that nothing is limited by cgroups."""
        return "none"

    async def zygote(
        self, *, key: str, python: str, preload: Sequence[str] = (), site_directories: Sequence[str] = ()
    ) -> UnsafeZygote:
        """Return a name for an interpreter; `preload` and `site_directories` have no effect."""
        del preload, site_directories
        return UnsafeZygote(key, python)

    async def run(self, policy: Policy, argv: Sequence[str]) -> Process:
        """Start a program as a plain child process; argv[0] is looked up in the policy's PATH."""
        if not argv:
            raise ValueError("argv is empty: name the program to run")
        return await self._launch(policy, list(argv), ())

    async def run_python(
        self,
        zygote: UnsafeZygote,
        policy: Policy,
        script: str,
        *,
        interpreter: str,
        site_directories: Sequence[str],
        arguments: Sequence[str] = (),
    ) -> Process:
        """Start `interpreter script` as a plain child process that also finds `site_directories`."""
        del zygote
        return await self._launch(policy, [interpreter, script, *arguments], site_directories)

    async def close(self) -> None:
        """End every process group; safe to call twice."""
        for process in list(self._following):
            process.kill()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        self._executor.shutdown(wait=False)

    async def _launch(self, policy: Policy, argv: list[str], site_directories: Sequence[str]) -> Process:
        loop = asyncio.get_running_loop()
        stdout, stdout_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stderr, stderr_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        process = UnsafeProcess(policy.limits, {"stdout": stdout, "stderr": stderr}, self._executor)
        for descriptor in (stdout_end, stderr_end):
            os.set_blocking(descriptor, True)
        directory: Path | None = None
        try:
            process.listeners = _listen(policy.listeners)
            directory, translate = await loop.run_in_executor(self._executor, _lay_out, policy, self._directory)
            environment = _environment(policy, translate, site_directories)
            child = await loop.run_in_executor(
                self._executor,
                _spawn,
                [translate(each) for each in argv],
                translate(policy.working_directory),
                environment,
                (stdout_end, stderr_end),
                policy.limits,
            )
        except OSError as problem:
            process.never_ran(f"{problem.filename or argv[0]}: {problem.strerror}")
        else:
            process.begin(child)
        finally:
            os.close(stdout_end)
            os.close(stderr_end)
        self._follow(process, directory)
        return process

    def _follow(self, process: UnsafeProcess, directory: Path | None) -> None:
        task = asyncio.ensure_future(process.follow(directory))
        self._following[process] = task
        task.add_done_callback(lambda _: self._following.pop(process))


class UnsafeProcess(Process):
    """A process group of this user."""

    def __init__(self, limits: Limits, outputs: Mapping[Stream, int], executor: Executor) -> None:
        super().__init__(limits, outputs)
        self._executor = executor
        self._child: subprocess.Popen[bytes] | None = None
        self._failure = ""

    def begin(self, child: subprocess.Popen[bytes]) -> None:
        """Take over a started child."""
        self._child = child
        self.pid = child.pid
        self._mark_ready()

    def never_ran(self, sentence: str) -> None:
        """Note why there is no child."""
        self._failure = sentence

    async def follow(self, directory: Path | None) -> None:
        """Wait for the child, end its group, clear up, and settle the verdict."""
        if self._child is None:
            verdict = Verdict("setup", detail=self._failure)
        else:
            pidfd = os.pidfd_open(self._child.pid)
            try:
                await readable(pidfd)
            finally:
                os.close(pidfd)
            self._mark_ended()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
            verdict = self._judge(self._child)
        if directory is not None:
            await self._loop.run_in_executor(self._executor, lambda: shutil.rmtree(directory, ignore_errors=True))
        self._settle(verdict)

    def _judge(self, child: subprocess.Popen[bytes]) -> Verdict:
        _pid, status, used = os.wait4(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        child.returncode = code
        reason: EndReason = "exit" if code >= 0 else "signal"
        if code == -signal.SIGXCPU:
            reason = "cpu"
        return Verdict(
            self._cause or reason,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            wall_ms=self._wall_ms,
            cpu_ms=round((used.ru_utime + used.ru_stime) * 1000),
            peak_memory=used.ru_maxrss * 1024,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._ended is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)


def _listen(wanted: Sequence[Listener]) -> dict[Listener, socket.socket]:
    opened: dict[Listener, socket.socket] = {}
    try:
        for each in wanted:
            family = socket.AF_INET6 if ":" in each.host else socket.AF_INET
            listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            opened[each] = listening
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listening.bind((each.host, each.port))
            listening.listen(_BACKLOG)
    except OSError as problem:
        for listening in opened.values():
            listening.close()
        raise OSError(problem.errno, problem.strerror, f"{each.host}:{each.port}") from None
    return opened


def _lay_out(policy: Policy, state_directory: Path) -> tuple[Path, Callable[[str], str]]:
    """Make the private trees of one run; returns their directory and a translation from guest to host paths."""
    state_directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="unsafe-", dir=state_directory))
    places: dict[str, str] = {}
    for number, each in enumerate(policy.mounts):
        if isinstance(each, Scratch | Overlay):
            own = directory / str(number)
            if isinstance(each, Overlay):
                shutil.copytree(each.source, own, symlinks=True)
            else:
                own.mkdir()
            places[each.target.rstrip("/")] = str(own)
        else:
            places[each.target.rstrip("/")] = places.get(each.source, each.source)
    longest_first = sorted(places, key=len, reverse=True)

    def translate(path: str) -> str:
        for target in longest_first:
            if path == target or path.startswith(f"{target}/"):
                return places[target] + path[len(target) :]
        return path

    return directory, translate


def _environment(policy: Policy, translate: Callable[[str], str], site_directories: Sequence[str]) -> dict[str, str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", **policy.environment}
    if site_directories:
        known = [each for each in environment.get("PYTHONPATH", "").split(":") if each]
        environment["PYTHONPATH"] = ":".join([*known, *site_directories])
    return {name: ":".join(translate(part) for part in value.split(":")) for name, value in environment.items()}


def _spawn(
    argv: Sequence[str], directory: str, environment: Mapping[str, str], outputs: tuple[int, int], limits: Limits
) -> subprocess.Popen[bytes]:
    program = shutil.which(argv[0], path=environment.get("PATH"))
    child = subprocess.Popen(
        argv,
        executable=program or argv[0],
        stdin=subprocess.DEVNULL,
        stdout=outputs[0],
        stderr=outputs[1],
        cwd=directory,
        env=environment,
        start_new_session=True,
    )
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_DATA: limits.memory,
        resource.RLIMIT_FSIZE: limits.file_size,
        resource.RLIMIT_CPU: None if limits.cpu_time is None else max(1, round(limits.cpu_time)),
    }
    for kind, value in wanted.items():
        if value is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
                resource.prlimit(child.pid, kind, (value, value))
    return child
