"""Run execs for one session and turn what came of each into its result."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.errors import ClawplaneError, InvalidArgument, TooLarge
from clawplane.domain.sessions import MAX_TIMEOUT, ExecRequest, ExecResult, SessionSpec, Usage
from clawplane.link.asking import Asking
from clawplane.link.flow import MAX_ANSWER
from clawplane.runner.sessions.background import Background
from clawplane.runner.sessions.events import EventStream
from clawplane.runner.sessions.execute_command import execute_command
from clawplane.runner.sessions.execute_python import PythonEnd
from clawplane.runner.sessions.output import Output
from clawplane.runner.sessions.python_side import PythonSide
from clawplane.runner.sessions.residence import Residence
from clawplane.runner.sessions.running import Running
from clawplane.runner.sessions.words import Ended, never_begun, unheard
from clawplane.runner.sessions.world import USER_BASE, WORKSPACE
from clawplane.runner.workspace_changes import Changes, Snapshot, changes
from clawplane.sandbox.policy import MIB
from clawplane.sandbox.repl_wire import TO_GUEST

_FIRST_LOOK: Final = 0.5
_LOOK_SHARE: Final = 20.0
"""Measuring the workspace takes at most one part in so many of the time."""
_FLUSH_SECONDS: Final = 30.0
_LATE_FLUSH_SECONDS: Final = 0.02
_MOST_NOTES: Final = 20
_PACKAGES: Final = USER_BASE.removeprefix(f"{WORKSPACE}/")
_NO_CHANGES: Final = Changes()


class Execs:
    """The execs of one session: `run` one at a time, those that go beside by `begin` and `through`."""

    def __init__(
        self,
        spec: SessionSpec,
        residence: Residence,
        python: PythonSide,
        environment: Mapping[str, str],
        *,
        node: str,
        spill_bytes: int,
        clock: Clock,
    ) -> None:
        self.running: Running | None = None
        self.background = Background(residence)
        self.disk = 0
        """Bytes in the workspace when that was last seen."""
        self._spec = spec
        self._residence = residence
        self._python = python
        self._environment = environment
        self._node = node
        self._spill_bytes = spill_bytes
        self._clock = clock
        self._before: Snapshot | None = None
        self._beside = 0
        self._installed_beside = False
        self._notes: list[str] = []
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self, asking: Asking, request: ExecRequest, notes: list[str]) -> None:
        """Run one exec and answer it; raises InvalidArgument when it cannot begin."""
        running = self.running = self.begin(asking, request)
        running.notes.extend([*self._notes, *notes])
        self._notes.clear()
        if self._installed_beside and request.tool == "python":
            self._installed_beside = False
            await self._python.installed()
        try:
            await self.through(running)
        finally:
            self.running = None

    def note(self, sentence: str) -> None:
        """Let the next answer of a turn tell this."""
        self._notes.append(sentence)
        del self._notes[:-_MOST_NOTES]

    def dropped(self, asking: Asking) -> None:
        """Let the next answer tell of an exec that waited when the link was cut, and does not run any more."""
        if asking.method == "exec":
            self.note(never_begun(msgspec.msgpack.decode(asking.body, type=ExecRequest).id))

    def begin(self, asking: Asking, request: ExecRequest) -> Running:
        """Return an exec that `through` is to run; raises InvalidArgument when it cannot begin."""
        _check(request)
        events = EventStream(asking, self._clock)
        output = Output(self._residence.files, request.id, events, raw=request.raw, spill_bytes=self._spill_bytes)
        return Running(request, self._spec.options, asking, events, output)

    async def through(self, running: Running, *, beside: bool = False) -> None:
        """Run an exec to its end and answer it; `beside` those that take turns."""
        request, asking, events, output = running.request, running.asking, running.events, running.output
        self._beside += beside
        files = self._residence.files
        known = None if self._beside else self._before
        before = known if known is not None else await files.snapshot()
        used, mark = self._residence.usage(), self._residence.mark()
        watching = asyncio.create_task(self._watch_disk(running))
        try:
            ended = await self._run(running)
            after = await files.snapshot()
            self._before = None if self._beside else after
            self.disk = sum(size for size, _, _ in after.marks.values())
            files.forget_usage()
            changed = changes(before, after) if before is not after else _NO_CHANGES
        except BaseException:
            self._before = None
            events.drop()
            output.close()
            raise
        finally:
            watching.cancel()
            self._beside -= beside
        if beside:
            self._installed_beside |= any(change.path.startswith(_PACKAGES) for change in changed.files)
        elif request.tool != "python" and any(change.path.startswith(_PACKAGES) for change in changed.files):
            await self._python.installed()
        now = self._residence.usage()
        stdout, stderr, truncated = output.finish()
        if changed.note:
            running.notes.append(changed.note)
        result = ExecResult(
            exec_id=request.id,
            session_id=self._spec.session,
            stdout=stdout,
            stderr=stderr,
            error=ended.error,
            status=ended.status,
            execution_count=ended.count if isinstance(ended, PythonEnd) else 0,
            results=tuple(running.results),
            error_detail=ended.detail,
            exit_code=ended.exit_code,
            truncated=truncated,
            files=changed.files,
            egress=self._residence.connections(mark),
            usage=Usage(
                wall_ms=round(running.wall_ms, 3),
                cpu_ms=max(0, now.cpu_ms - used.cpu_ms),
                peak_memory=now.peak_memory,
                output_bytes=output.bytes,
            ),
            notes=tuple(running.notes),
        )
        if asking.withdrawn.is_set():
            self.note(unheard(result))
        self._answer(asking, result, events)

    def cancelled(self, asking: Asking, request: ExecRequest) -> None:
        """Answer an exec that was cancelled before its turn."""
        result = ExecResult(
            exec_id=request.id,
            session_id=self._spec.session,
            error="Error: cancelled",
            status="cancelled",
            notes=("It was cancelled before it began.",),
        )
        asking.answer(msgspec.msgpack.encode(result))

    def files_changed(self) -> None:
        """Note that somebody else than the guest has changed the workspace."""
        self._before = None

    async def finish(self) -> None:
        """Wait until what was answered is told, but not for long."""
        await self.background.let_go()
        if self._answering:
            _, left = await asyncio.wait(self._answering, timeout=1.0)
            for task in left:
                task.cancel()

    async def _run(self, running: Running) -> Ended:
        if running.request.tool == "python":
            return await self._python.run(running)
        return await execute_command(
            self._residence, running, self.background, node=self._node, environment=self._environment
        )

    def _answer(self, asking: Asking, result: ExecResult, events: EventStream) -> None:
        """Answer when the stream was told; a caller who reads slowly does not hold up the session."""
        encoded = msgspec.msgpack.encode(result)
        if len(encoded) > MAX_ANSWER:
            note = "The rich results were left out: they were too large together."
            result = msgspec.structs.replace(result, results=(), notes=(*result.notes, note))
            encoded = msgspec.msgpack.encode(result)
        if events.idle:
            asking.answer(encoded)
            return
        within = _LATE_FLUSH_SECONDS if result.status == "timeout" else _FLUSH_SECONDS
        task = asyncio.create_task(_told(asking, encoded, events, within))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _watch_disk(self, running: Running) -> None:
        """End an exec that fills the workspace beyond its quota."""
        quota = self._spec.options.disk * MIB
        if not quota:
            return
        pause, loop = _FIRST_LOOK, asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            self._residence.files.forget_usage()
            with contextlib.suppress(ClawplaneError):  # the guest moves or closes directories: look again
                if (await self._residence.files.disk_usage()).bytes > quota:
                    running.end("disk")
                    return
            pause = max(_FIRST_LOOK, (loop.time() - began) * _LOOK_SHARE)


async def _told(asking: Asking, answer: bytes, events: EventStream, within: float) -> None:
    try:
        await events.flushed(within)
    finally:
        asking.answer(answer)


def _check(request: ExecRequest) -> None:
    if not 0 < request.timeout <= MAX_TIMEOUT:
        raise InvalidArgument(
            f"`timeout` is {request.timeout}.", hint=f"Set it to more than 0, at most {MAX_TIMEOUT:g}."
        )
    if "\0" in request.code and request.tool != "python":
        raise InvalidArgument("`code` contains a NUL character.", hint="Remove it.")
    if len(request.code) > TO_GUEST // 8:
        raise TooLarge(f"`code` is longer than {TO_GUEST // 8} characters.", hint="Put data in a workspace file.")
