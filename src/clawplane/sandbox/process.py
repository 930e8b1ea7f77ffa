"""Follow one process tree from outside: its output, its clocks, its end, and the verdict on it.

Theory of operation
- `Process` is what callers see. How a tree is signalled and how its end is learned differ between the sandbox
  (guest.py) and the unsafe launcher (unsafe.py), which follow the tree and fill in `_signal`.
- Output is read from the pipes only when the caller asks for it: a caller who does not read stops the guest's writes
  once the pipe is full, and nothing grows here. `wait` reads and drops what nobody reads.
- The first cause wins: whoever kills says why, and the verdict is that reason. Without one, the way the main process
  ended decides.
- `settled` is done when the whole tree is gone and measured, not before.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from clawplane.sandbox.output import Output, Stream
from clawplane.sandbox.policy import EndReason, Limits, Listener, Verdict


class Process(ABC):
    """One running process tree."""

    def __init__(self, limits: Limits, outputs: Mapping[Stream, int]) -> None:
        """Own the reading ends in `outputs`, which must be non-blocking."""
        self._limits = limits
        self._output = Output(outputs, limits.output, self._too_much_output)
        self._loop = asyncio.get_running_loop()
        self._cause: EndReason | None = None
        self._began: float | None = None
        self._ended: float | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._settled: asyncio.Future[Verdict] = self._loop.create_future()
        self.pid = 0
        """Process id on the host of the tree's first process, 0 until it exists."""
        self.listeners: Mapping[Listener, socket.socket] = {}
        """Listening sockets inside the guest's network; they belong to the caller, who closes them."""

    async def ready(self) -> Verdict | None:
        """Wait until user code is about to start: None; or until it is certain that it never will: the verdict."""
        waited: list[asyncio.Future[Any]] = [self._ready, self._settled]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return None if self._ready.done() else self._settled.result()

    def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """Yield blocks of output as they come, until both streams are closed; one reader at a time."""
        return self._output.blocks()

    async def wait(self) -> Verdict:
        """Return the verdict when the tree is gone and its output was read by `output`'s reader, or dropped here."""
        draining = asyncio.ensure_future(self._output.drain())
        try:
            verdict = await asyncio.shield(self._settled)
            if self._cause is None or not self._output.has_reader:
                await draining
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
        self._output.abandon()
        return verdict

    async def stop(self, *, reason: Literal["aborted", "timeout"] = "aborted") -> Verdict:
        """Send TERM to the tree, KILL after the grace period, and return the verdict when all of it is gone.

        Output that nobody is reading is dropped.
        """
        self._end(reason)
        verdict = await asyncio.shield(self._settled)
        self._output.abandon()
        return verdict

    def kill(self) -> None:
        """End the whole tree at once."""
        self._kill("aborted")

    @property
    def alive(self) -> bool:
        """Tell whether the verdict is still open."""
        return not self._settled.done()

    def _end(self, cause: EndReason) -> None:
        if self._ended is not None or self._cause is not None:
            return
        self._cause = cause
        self._signal(signal.SIGTERM)
        self._timers.append(self._loop.call_later(self._limits.grace, self._signal, signal.SIGKILL))

    def _kill(self, cause: EndReason) -> None:
        if self._ended is None:
            self._cause = self._cause or cause
            self._signal(signal.SIGKILL)

    def _too_much_output(self) -> None:
        self._kill("output")

    def _mark_ready(self) -> None:
        self._began = time.monotonic()
        if not self._ready.done():
            self._ready.set_result(None)
        if self._limits.wall is not None:
            self._timers.append(self._loop.call_later(self._limits.wall, self._end, "timeout"))

    def _mark_ended(self) -> None:
        if self._ended is None:
            self._ended = time.monotonic()

    @property
    def _wall_ms(self) -> int:
        if self._began is None:
            return 0
        return round(((self._ended or time.monotonic()) - self._began) * 1000)

    def _settle(self, verdict: Verdict) -> None:
        for timer in self._timers:
            timer.cancel()
        self._output.finish()
        if not self._settled.done():
            self._settled.set_result(verdict)

    @abstractmethod
    def _signal(self, number: signal.Signals) -> None:
        """Send TERM to every process of the tree, or KILL in the way that reaches all of it for certain."""
