"""Run the programs of host tasks: one nursery for all of them, one life for each (life.py, keeper.py)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from clawplane.runner.host import keeper
from clawplane.runner.host.life import GONE_SECONDS, CannotStart, How, Life, Program
from clawplane.runner.host.output import LIVE_BYTES, OUTPUT_BYTES, Capture, OpenSink, Tell, nobody, nowhere
from clawplane.runner.host.stopping import CANCEL_GRACE, Stop

MARK: Final = "CLAWPLANE_HOST_TASK"
"""The variable by which processes of a task are known whose keeper was killed."""
_NURSERY_SECONDS: Final = 2.0
_START_SECONDS: Final = 20.0

_log = logging.getLogger(__name__)


STREAMS: Final = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `code` is 128 + signal when one killed it; `how` says who ended it."""

    how: How
    code: int
    signal: str | None
    duration: int
    """Milliseconds."""
    stdout: str = ""
    stderr: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """`signal`, and for what was cut `output` with bytes and path by stream."""


class Processes:
    """Starts programs; owns the nursery."""

    def __init__(self, mark: str, *, keep_background: bool = False) -> None:
        """Mark what is started with `mark`, a text that is this runner's alone."""
        self._mark = mark
        self._keep_background = keep_background
        self._nursery: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._count = 0

    async def open(self) -> None:
        """Start the nursery, and end what an earlier life of this runner has left behind."""
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """End the nursery; keepers end by themselves with their tasks."""
        await asyncio.to_thread(self._close)

    async def run(
        self,
        program: Program,
        *,
        seconds: float,
        tell: Tell = nobody,
        stop: Stop | None = None,
        grace: float = CANCEL_GRACE,
        cap: int = OUTPUT_BYTES,
        live: int = LIVE_BYTES,
        spill: OpenSink = nowhere,
    ) -> Ended:
        """Run a program to its end, its tree included; raises CannotStart. Cancelled, it ends the tree first.

        Of each stream `cap` bytes are kept and `live` bytes are told while it runs; `spill` opens a file for the whole.
        """
        self._count += 1
        captures = {name: Capture(name, tell=tell, cap=cap, live=live, spill=spill) for name in STREAMS}
        began = time.monotonic()
        life = Life(program, captures, f"{MARK}={self._mark}/{self._count}")
        try:
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await life.start(self._send)
            except TimeoutError as error:
                self._give_up_nursery()
                raise CannotStart("The process that starts programs does not answer.") from error
            except OSError as error:  # no descriptors, no processes left
                raise CannotStart(error.strerror or str(error), error.errno or 0) from error
            how = await life.until_ended(seconds, stop or Stop())
            left = grace if how == "timeout" or stop is None else stop.grace
            await life.end(how, stop, left, self._keep_background)
        except asyncio.CancelledError:
            await life.terminate(grace)
            raise
        finally:
            await life.close()
        status = signal.SIGKILL if life.status is None else life.status
        return _ended(how, status, captures, round((time.monotonic() - began) * 1000))

    def _send(self, descriptors: Sequence[int]) -> None:
        if self._nursery is None or self._link is None or self._nursery.poll() is not None:
            self._open()
        if self._link is None:
            raise CannotStart("The runner's processes are closed.")
        try:
            socket.send_fds(self._link, [b"."], list(descriptors))
        except OSError:
            self._open()  # somebody has killed it just now
            socket.send_fds(self._link, [b"."], list(descriptors))

    def _give_up_nursery(self) -> None:
        """Have the next task start another one."""
        if self._nursery is not None:
            self._nursery.kill()

    def _open(self) -> None:
        first = self._nursery is None
        self._close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._nursery = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", keeper.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={"PATH": os.defpath},
                cwd="/",
                start_new_session=True,
            )
        ours.setblocking(False)
        self._link = ours
        if first and not self._keep_background:
            left = keeper.kill_marked(f"{MARK}={self._mark}/")
            if left:
                _log.warning("Killed %d processes that an earlier run of this runner had left behind", left)

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._nursery is not None:
            try:
                self._nursery.wait(_NURSERY_SECONDS)
            except subprocess.TimeoutExpired:
                self._nursery.kill()
                self._nursery.wait()
            self._nursery = None


def _ended(how: How, status: int, captures: Mapping[str, Capture], duration: int) -> Ended:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    name = signal_name(number) if number else None
    metadata: dict[str, Any] = {} if name is None else {"signal": name}
    if cut := {stream: capture.metadata for stream, capture in captures.items() if capture.metadata}:
        metadata["output"] = cut
    return Ended(
        how=how,
        code=128 + number if number else os.waitstatus_to_exitcode(status),
        signal=name,
        duration=duration,
        stdout=captures["stdout"].text,
        stderr=captures["stderr"].text,
        metadata=metadata,
    )


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


__all__ = ["GONE_SECONDS", "CannotStart", "Ended", "How", "Processes", "Program", "signal_name"]
