"""The life of one program of a host task, from its start under a keeper until nothing of it is left.

Theory of operation. The keeper (keeper.py) starts the program and answers on the task's control socket. One timer
decides about the time limit: whoever comes first, the program's end or the timer, is what is reported, and nothing
that happens later changes it. Afterwards the tree is ended in any case:

    the program ended by itself   its output is read on until it closes, for DRAIN_SECONDS; what it left behind is
                                  terminated, and killed LEFTOVER_SECONDS later (or left alone: `keep_background`)
    time limit, cancelled         terminate; after the grace kill
    dropped                       kill

Cancelling this call is cancelling the program; cancelling it twice leaves the tree to its keeper, which kills it.

A tree that cannot be killed (it belongs to another user by then) is waited for at most GONE_SECONDS; a keeper that does
not answer by then, because somebody has stopped it, is killed, and what it kept is found by its mark. Who prints more
than anybody keeps is slowed down: nobody gains from reading that fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from clawplane.runner.host import keeper
from clawplane.runner.host.output import Capture
from clawplane.runner.host.stopping import Stop

DRAIN_SECONDS: Final = 2.0
LEFTOVER_SECONDS: Final = 2.0
GONE_SECONDS: Final = 12.0
_BLOCK: Final = 256 << 10
_FLOOD_BYTES: Final = 256 << 20
_FLOOD_PAUSE: Final = 0.01


class CannotStart(Exception):
    """A program could not be started; the message is for people, `code` the errno."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: argv (argv[0] is a path), where, with which environment; `stdin` None is an empty one."""

    argv: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    stdin: bytes | None = None


How = Literal["exit", "timeout", "cancel", "leave", "drop"]


class Life:
    """One program from its start until nothing of it is left."""

    def __init__(self, program: Program, captures: Mapping[str, Capture], mark: str) -> None:
        self._program = program
        self._captures = captures
        self._mark = mark
        self._loop = asyncio.get_running_loop()
        self._control: socket.socket | None = None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._gone = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._reading: list[asyncio.Task[None]] = []
        self._keeper: keeper.Seen | None = None
        self.status: int | None = None

    async def start(self, send: Callable[[Sequence[int]], None]) -> None:
        """Have a keeper start the program; raises CannotStart."""
        name, _, value = self._mark.partition("=")
        request = json.dumps(
            {
                "argv": list(self._program.argv),
                "cwd": str(self._program.cwd),
                "env": {**self._program.environment, name: value},
            }
        ).encode()
        with _stdio(self._program.stdin is not None) as (ours, theirs):
            self._control, other = socket.socketpair()
            self._control.setblocking(False)
            with other:
                send([other.fileno(), *theirs])
            for descriptor, capture in zip(ours[1:], self._captures.values(), strict=True):
                reader = await self._reader(os.dup(descriptor))
                self._reading.append(asyncio.create_task(_read(reader, capture)))
            if self._program.stdin is not None:
                writer = await self._writer(os.dup(ours[0]))
                self._tasks.append(asyncio.create_task(_write(writer, self._program.stdin)))
        self._listener = asyncio.create_task(self._listen(self._control))
        # the keeper says why when this fails, or its silence does
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._control, len(request).to_bytes(8, "big") + request)
        await asyncio.shield(self._started)

    async def until_ended(self, seconds: float, stop: Stop) -> How:
        """Wait for the program's end, the time limit or the wish to stop, whichever comes first."""
        asked = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([self._over, asked], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if self._over.done():
            return "exit"
        if not stop.asked:
            return "timeout"
        return stop.why or "cancel"

    async def end(self, how: How, stop: Stop | None, grace: float, keep_background: bool) -> None:
        """End what is left of the tree, and read what it still says."""
        if how == "exit":
            if self._reading and not self._gone.is_set():
                await asyncio.wait(self._reading, timeout=DRAIN_SECONDS)
            if keep_background:
                self._word(b"L")
                return
            grace = LEFTOVER_SECONDS
        if grace > 0 and not self._gone.is_set():
            self._word(b"T")
            await self._wait_gone(grace, stop)
        await self._kill()
        if self._reading:
            await asyncio.wait(self._reading, timeout=DRAIN_SECONDS)

    async def terminate(self, grace: float) -> None:
        """Ask the tree to end and give it `grace` seconds."""
        if self._listener is not None and not self._gone.is_set():
            self._word(b"T")
            await self._wait_gone(grace, None)

    async def close(self) -> None:
        """Kill what is left and let go of everything; also after a failure or a cancellation in any place above."""
        try:
            if self._listener is not None:
                await self._kill()
        finally:
            tasks = [*self._tasks, *self._reading, *([] if self._listener is None else [self._listener])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for transport in self._transports:
                transport.close()
            if self._control is not None:
                self._control.close()  # whatever is left now is killed by its keeper
            for capture in self._captures.values():
                await capture.close()

    # inside

    async def _reader(self, descriptor: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=_BLOCK)
        file = os.fdopen(descriptor, "rb", buffering=0)
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        self._transports.append(transport)
        return reader

    async def _writer(self, descriptor: int) -> asyncio.StreamWriter:
        file = os.fdopen(descriptor, "wb", buffering=0)
        transport, protocol = await self._loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
        self._transports.append(transport)
        transport.set_write_buffer_limits(0)  # drained means written
        return asyncio.StreamWriter(transport, protocol, None, self._loop)

    async def _kill(self) -> None:
        if not self._gone.is_set():
            self._word(b"K")
            await self._wait_gone(GONE_SECONDS, None)
        if self._keeper is not None and not self._gone.is_set():
            keeper.send(self._keeper, signal.SIGKILL)
            await asyncio.to_thread(keeper.kill_marked, self._mark)
            self._gone.set()

    async def _wait_gone(self, seconds: float, stop: Stop | None) -> None:
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._gone.wait())]
        if stop is not None:
            waits.append(asyncio.ensure_future(stop.wait_at_once()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _word(self, word: bytes) -> None:
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(word)
        if word == b"L":
            self._gone.set()

    async def _listen(self, control: socket.socket) -> None:
        """Hear what the keeper says until it goes."""
        heard = b""
        try:
            while data := await self._loop.sock_recv(control, 4096):
                *lines, heard = (heard + data).split(b"\n")
                for line in lines:
                    self._hear(line.decode())
        except OSError:
            pass
        if not self._gone.is_set():
            # the keeper was killed: the program died with it, others of its tree are known by their mark
            await asyncio.to_thread(keeper.kill_marked, self._mark)
        self._gone.set()
        self._settle(None)

    def _hear(self, line: str) -> None:
        word, _, value = line.partition(" ")
        match word:
            case "started":
                self._keeper = keeper.look(int(value))
                if not self._started.done():
                    self._started.set_result(None)
            case "failed":
                self._gone.set()
                self._settle(CannotStart(os.strerror(int(value)), int(value)))
            case "ended":
                self.status = int(value)
                if not self._over.done():
                    self._over.set_result(None)
            case "gone":
                self._gone.set()

    def _settle(self, failure: CannotStart | None) -> None:
        if not self._started.done():
            if failure is None:
                self._started.set_result(None)
            else:
                self._started.set_exception(failure)
        if not self._over.done():
            self._over.set_result(None)


async def _read(reader: asyncio.StreamReader, capture: Capture) -> None:
    """Read a pipe to its end; the writing of what is kept holds the reading back."""
    while data := await reader.read(_BLOCK):
        await capture.take(data)
        if capture.total > _FLOOD_BYTES:
            await asyncio.sleep(_FLOOD_PAUSE)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write a program's input and close it; a program that does not read it all is no error."""
    try:
        with contextlib.suppress(OSError):
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort()  # all of it is written, or nobody reads it


@contextmanager
def _stdio(fed: bool) -> Iterator[tuple[list[int], list[int]]]:
    """Open three pipes (an empty stdin unless it is fed) and close what was opened; (our ends, their ends)."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        if fed:
            read, write = os.pipe()
            theirs.append(read)
            ours.append(write)
        else:
            theirs.append(os.open(os.devnull, os.O_RDONLY))
            ours.append(os.open(os.devnull, os.O_WRONLY))
        for _ in range(2):
            read, write = os.pipe()
            ours.append(read)
            theirs.append(write)
        yield ours, theirs
    finally:
        for descriptor in (*ours, *theirs):
            os.close(descriptor)
