"""Follow one sandboxed tree by its report socket and its pidfd, and judge its end by what the kernel counted.

The report (inside/report.py) comes from code no guest can reach; a report socket that closes without a word means that
pid 1 was killed. The pidfd becomes readable when pid 1 is dead, and the kernel lets pid 1 die last: then the whole tree
is gone. Only after that are the counters read, the group removed and the identity given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final

from clawplane.sandbox.cgroups import Group, Usage
from clawplane.sandbox.inside import report
from clawplane.sandbox.output import Stream
from clawplane.sandbox.policy import MIB, EndReason, Policy, Verdict
from clawplane.sandbox.process import Process
from clawplane.sandbox.readiness import readable

_SETUP_SECONDS: Final = 30.0
_KILL_SECONDS: Final = 1.0
_REMOVE_TRIES: Final = 200
_REMOVE_PAUSE: Final = 0.01

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cgroups counted about a tree."""

    usage: Usage
    out_of_memory: bool
    too_many_processes: bool


class GuestProcess(Process):
    """A process tree in its own namespaces."""

    def __init__(
        self,
        policy: Policy,
        outputs: Mapping[Stream, int],
        channel: socket.socket,
        group: Group,
        executor: Executor,
    ) -> None:
        super().__init__(policy.limits, outputs)
        self._policy = policy
        self._channel = channel
        self._group = group
        self._executor = executor
        self._pidfd: int | None = None
        self._end_report: report.Ended | None = None
        self._failure = ""
        self._wanted: signal.Signals | None = None
        self.born: asyncio.Future[None] = self._loop.create_future()
        """Done when the child has spoken or is certain never to."""
        self.prepared: asyncio.Future[None] = self._loop.create_future()
        """Done when `listeners` is filled, or the tree has ended before."""

    @property
    def policy(self) -> Policy:
        """What isolates it."""
        return self._policy

    def submitted(self) -> None:
        """Start the clock of set-up, or start it anew."""
        while self._timers:
            self._timers.pop().cancel()
        self._timers.append(self._loop.call_later(_SETUP_SECONDS, self._set_up_too_slow))

    async def follow(self, give_back: Callable[[], None]) -> None:
        """Read reports until the tree is gone, then settle the verdict and give back what it was lent."""
        try:
            with contextlib.suppress(ConnectionError):
                await self._read_reports()
            self._mark_ended()
            self._set_born()
            await self._outlive()
            facts = await self._loop.run_in_executor(self._executor, self._count)
            verdict = self._judge(facts)
            await self._remove_group()
            try:
                await self._loop.run_in_executor(self._executor, give_back)
            except OSError as problem:
                if verdict.reason != "setup":  # a tree that could not even be mounted has its reason already
                    sentence = f"cannot take back what the guest wrote: {problem}"
                    verdict = replace(verdict, reason="setup", detail=sentence)
            self._settle(verdict)
        except Exception:  # a defect of ours: nothing may run on, and nobody may wait for a verdict for ever
            _log.exception("A guest could not be followed to its end")
            self._send(signal.SIGKILL)
            self._settle(Verdict("setup", detail="the sandbox failed by a defect; the runner's log has the details"))
        finally:
            self._channel.close()
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None
            if not self.prepared.done():
                self.prepared.set_result(None)

    def fail(self, sentence: str) -> None:
        """Note why no child will ever speak; the first reason stays."""
        self._failure = self._failure or sentence

    def watch(self) -> EndReason | None:
        """Look whether a limit was crossed that the kernel does not punish by itself; called from a worker thread."""
        if self._group.oom_killed():
            return "memory"
        if self._group.pids_exceeded():
            return "processes"
        allowed = self._limits.cpu_time
        if allowed is not None and self._group.usage().cpu_ms > allowed * 1000:
            return "cpu"
        return None

    def punish(self, cause: EndReason) -> None:
        """End the tree for what `watch` saw."""
        self._kill(cause)

    async def _read_reports(self) -> None:
        while True:
            try:
                message, descriptors, _flags, _address = socket.recv_fds(
                    self._channel, report.LARGEST, report.MOST_DESCRIPTORS
                )
            except BlockingIOError:
                await readable(self._channel.fileno())
                continue
            if not message:
                return
            kind, content = message[:1], message[1:]
            if kind == report.BORN:
                self._note_birth(descriptors[0])
            elif kind == report.LISTENING:
                listening = [socket.socket(fileno=each) for each in descriptors]
                self.listeners = dict(zip(self._policy.listeners, listening, strict=True))
                self.prepared.set_result(None)
            elif kind == report.READY:
                self._mark_ready()
                self._deliver()
            elif kind == report.EXIT:
                self._end_report = report.decode_end(content)
                return
            elif kind == report.FAILED:
                self.fail(content.decode(errors="replace"))
                return
            else:
                self._hear(kind, content, descriptors)

    def _hear(self, kind: bytes, content: bytes, descriptors: Sequence[int]) -> None:
        """Take a report that only some guests' pid 1 makes."""
        raise ValueError(f"a report of kind {kind!r}")

    def _note_birth(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self.pid = pid_of(pidfd)
        if self._group.polled:
            with contextlib.suppress(OSError):
                self._group.attach(self.pid)
        self._set_born()
        self._deliver()

    def _set_born(self) -> None:
        if not self.born.done():
            self.born.set_result(None)

    async def _outlive(self) -> None:
        """Return when every process of the tree is gone."""
        if self._pidfd is None:
            return
        self._send(signal.SIGKILL)  # when pid 1 closed its socket any other way than by ending
        while True:
            try:
                await asyncio.wait_for(readable(self._pidfd), _KILL_SECONDS)
            except TimeoutError:
                await self._loop.run_in_executor(self._executor, self._group.kill)
            else:
                return

    def _count(self) -> Facts:
        return Facts(self._group.usage(), self._group.oom_killed(), self._group.pids_exceeded())

    async def _remove_group(self) -> None:
        for _ in range(_REMOVE_TRIES):
            if await self._loop.run_in_executor(self._executor, self._group.remove):
                return
            await asyncio.sleep(_REMOVE_PAUSE)  # the kernel empties a group a moment after its last process ended

    def _judge(self, facts: Facts) -> Verdict:
        end = self._end_report
        reason, detail = self._reason(facts)
        return Verdict(
            reason,
            exit_code=end.exit_code if end else None,
            signal=end.signal if end else None if reason == "setup" else int(signal.SIGKILL),
            wall_ms=self._wall_ms,
            cpu_ms=max(facts.usage.cpu_ms, end.cpu_ms if end else 0),
            peak_memory=facts.usage.peak_memory or (end.peak_memory if end else 0),
            detail=detail,
        )

    def _reason(self, facts: Facts) -> tuple[EndReason, str]:
        end, limits = self._end_report, self._limits
        if self._cause is not None:
            return self._cause, self._failure or self._explain(self._cause)
        if end is not None and end.exit_code == 0:
            return "exit", ""
        if facts.out_of_memory:
            return "memory", self._explain("memory")
        if self._failure or (self._began is None and not self._output.anything_came):
            return "setup", self._failure or "the sandbox's zygote died before the program could start"
        if facts.too_many_processes:
            return "processes", self._explain("processes")
        if end is None:
            return "signal", "the sandbox was killed from outside"
        if end.signal is None:
            return "exit", ""
        used_up = limits.cpu_time is not None and facts.usage.cpu_ms >= limits.cpu_time * 1000
        if end.signal == signal.SIGXCPU or (end.signal == signal.SIGKILL and used_up):
            return "cpu", self._explain("cpu")
        return "signal", ""

    def _explain(self, cause: EndReason) -> str:
        limits = self._limits
        match cause:
            case "memory" if limits.memory is not None:
                return f"it used more than its {limits.memory // MIB} MiB of memory"
            case "processes":
                return f"it started more than its {limits.processes} processes and threads"
            case "timeout":
                return f"it ran longer than its {limits.wall} s"
            case "output":
                return f"it wrote more than its {limits.output} bytes of output"
            case "cpu":
                return f"it used more than its {limits.cpu_time} s of CPU time"
            case _:
                return ""

    def _set_up_too_slow(self) -> None:
        if self._began is None and self._ended is None:
            self.fail(f"set-up took longer than {_SETUP_SECONDS:.0f} s")
            self._kill("setup")
            if self._pidfd is None:
                self._channel.shutdown(socket.SHUT_RDWR)

    def _signal(self, number: signal.Signals) -> None:
        if self._wanted is not signal.SIGKILL:
            self._wanted = number
        self._deliver()

    def _deliver(self) -> None:
        """Send the wanted signal as soon as there is somebody to hear it: TERM is lost during set-up."""
        if self._wanted is signal.SIGKILL or (self._wanted is not None and self._began is not None):
            self._send(self._wanted)

    def _send(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


def pid_of(pidfd: int) -> int:
    """Return the pid as this process's /proc knows it; 0 when the process is gone."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return max(0, int(line.split()[1]))
    return 0


def inner_pid(host_pid: int) -> int:
    """Translate a pid to the innermost namespace its process is in; 0 when the process is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{host_pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0
