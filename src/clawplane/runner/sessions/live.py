"""One live session: its turns, its interpreter, its clock, and its end.

One task (`run`) does everything that touches the interpreter, one turn after the other, in the order of arrival. What
is asked meanwhile waits in `turns`; interrupts, states and files are answered beside it. When nothing is to be done the
task looks at the clock: idle for `sleep_after` the processes are stopped, for `save_after` more the variables go to
disk and the session ends its life, and for `expires_after` it is over. Whatever comes wakes it.

    running --idle--> sleeping (frozen) --longer--> saved        any question about the interpreter: running again
    closed, expired, lost: from any of them
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from clawplane.domain.asks import METHODS, Branch, Interrupt, Nothing, Reset, Rollback, Sleep
from clawplane.domain.clock import Clock
from clawplane.domain.errors import ClawplaneError, Conflict, InternalError, InvalidArgument
from clawplane.domain.sessions import ExecRequest, LiveState, SessionSpec, SessionState
from clawplane.link.asking import Asking
from clawplane.runner.sessions.copies import Copy
from clawplane.runner.sessions.detached import Detached, goes_beside
from clawplane.runner.sessions.ends import End, Reason, ending
from clawplane.runner.sessions.execs import Execs
from clawplane.runner.sessions.file_answers import FILE_METHODS, FileAnswers, answered, decode
from clawplane.runner.sessions.interpreter import Gone
from clawplane.runner.sessions.noting import Noting
from clawplane.runner.sessions.python_side import PythonSide
from clawplane.runner.sessions.residence import Residence
from clawplane.runner.sessions.running import ASKED_GRACE_SECONDS
from clawplane.runner.sessions.saving import Memory, Saver
from clawplane.runner.sessions.turns import Turns

_COPY_SECONDS: Final = 0.25
"""Idle for this long, the interpreter is copied for undo; an exec that comes sooner waits for the copy."""
_CROWDED_SECONDS: Final = 1.0
"""The same while other sessions are opened, which need the processor more."""
_REMEMBER_SECONDS: Final = 0.5
"""Idle for this long, the names of the variables are written down."""

_log = logging.getLogger(__name__)


class Live:
    """A session that lives here. `note` hears of changes, `branched` takes copies; `crowded`: others are opened."""

    def __init__(
        self,
        spec: SessionSpec,
        residence: Residence,
        python: PythonSide,
        execs: Execs,
        saver: Saver,
        *,
        note: Callable[[LiveState], None],
        branched: Callable[[Live, str, Copy], None],
        clock: Clock,
        memory: Memory,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.spec = spec
        self.residence = residence
        self.python = python
        self.execs = execs
        self.exec_count = memory.exec_count
        self.gone = asyncio.Event()
        """Set when this life is cleared away."""
        self._saver = saver
        self._memory = memory
        self._noting = Noting(self.state, note)
        self._branched = branched
        self._clock = clock
        self._crowded = crowded
        self._files = FileAnswers(residence.files, execs.files_changed, self._used_file)
        self._turns = Turns(execs.dropped)
        self._detached = Detached(execs, self._wake, self._used_beside)
        self._waking = asyncio.Lock()
        self._state = SessionState.RUNNING
        self.used = asyncio.get_running_loop().time()
        """When it was used last, on the event loop's clock."""
        self._began = time.monotonic()
        self._end: Reason | None = None
        self._end_message = ""
        self._leaving = False
        self._retiring: tuple[str, asyncio.Future[None]] | None = None
        self._unremembered = False
        self._answers: dict[str, Callable[[Asking, Any], Awaitable[msgspec.Struct]]] = {
            "reset": self._reset,
            "rollback": self._rollback,
            "branch": self._branch,
            "sleep": self._sleep,
        }

    # From outside; none of it waits

    def asked(self, asking: Asking) -> None:
        """Take a question; raises a ClawplaneError to refuse it."""
        if self._end is not None:
            raise ending()
        method = asking.method
        if method == "interrupt":
            self._interrupt(asking, decode(asking))
        elif method == "state":
            asking.answer(msgspec.msgpack.encode(self.state()))
        elif method in FILE_METHODS:
            self._files.start(asking)
        elif method == "exec" and goes_beside(request := decode(asking)):
            self._detached.start(asking, request)
            self.exec_count += 1
            self._used_beside()
        elif method in METHODS:
            self._turns.add(asking)
        else:
            raise InvalidArgument(f"A session cannot be asked to {method!r}.")

    def close(self) -> None:
        """End the session for good."""
        self._finish("closed")
        self.residence_gone_or_left()

    def leave(self) -> None:
        """Save and end this life when what runs has ended, but soon."""
        self._leaving = True
        self._turns.wake()
        running = self.execs.running
        if running is not None:
            asyncio.get_running_loop().call_later(self._saver.seconds / 2, running.end, "cancelled")

    async def retire(self, why: str) -> bool:
        """Save and end this life, as long as it sleeps; return whether it has ended and is cleared away."""
        if self.sleeps and self._retiring is None and self._end is None:
            decided = asyncio.get_running_loop().create_future()
            self._retiring = why, decided
            self._turns.wake()
            await asyncio.shield(decided)
        if self._end is None:
            return False
        await self.gone.wait()
        return True

    def kill(self) -> None:
        """End this life at once; the workspace stays."""
        self._finish("lost", "its runner had to let go of it")
        self.residence_gone_or_left()

    def residence_gone_or_left(self) -> None:
        """End what runs; the sandbox itself goes when nobody else lives in it."""
        self._detached.end_all("killed")
        if self.execs.running is not None:
            self.execs.running.end("killed")
        if not self.residence.shared:
            self.residence.kill()

    def state(self) -> LiveState:
        """Say how the session stands."""
        options, now = self.spec.options, self._clock.now_ms()
        idle = asyncio.get_running_loop().time() - self.used
        used = self.residence.usage()
        running = self._state is SessionState.RUNNING
        return LiveState(
            state=self._state,
            sleeps_at=now + round((options.sleep_after - idle) * 1000) if running and options.sleep_after else None,
            expires_at=self.expires_at(),
            memory=used.current_memory,
            cpu_ms=used.cpu_ms,
            disk=self.execs.disk,
            exec_count=self.exec_count,
            restored=self._memory.restored,
            lost=self._memory.lost,
        )

    def expires_at(self) -> int | None:
        """Return when the session is over if nobody uses it, in ms."""
        after = self.spec.options.expires_after
        idle = asyncio.get_running_loop().time() - self.used
        return self._clock.now_ms() + round((after - idle) * 1000) if after else None

    @property
    def reason(self) -> Reason | None:
        """Why its life ended, None while it goes on."""
        return self._end

    async def stop_processes(self) -> None:
        """End what is this session's own in a sandbox that others may live in."""
        await self.execs.background.end()
        await self.python.close()

    # The life

    async def run(self) -> End:
        """Live; returns when something has ended the session."""
        dying = asyncio.create_task(self._watch())
        self._noting.now()
        try:
            while self._end is None:
                if self._leaving:
                    await self._save("its runner leaves")
                elif (asking := await self._turns.next(self._next_step())) is not None:
                    await self._serve(asking)
                elif self._end is None and not self._leaving:
                    await self._look_at_clock()
        finally:
            dying.cancel()
            await asyncio.gather(dying, return_exceptions=True)
            await self._stop()
        used = self.residence.usage()
        wall = round((time.monotonic() - self._began) * 1000)
        return End(self.reason or "lost", self._end_message, wall, used.cpu_ms, used.peak_memory)

    async def _stop(self) -> None:
        self._turns.refuse(ending())
        self._noting.stop()
        if self._retiring is not None:
            self._retiring[1].set_result(None)
        await self._detached.finish()
        await self._files.end()
        await self.execs.finish()

    async def _watch(self) -> None:
        """Notice when the sandbox ends by itself."""
        verdict = await self.residence.resident.wait()
        self._finish("lost", verdict.detail or f"its sandbox ended: {verdict.reason}")

    def _finish(self, reason: Reason, message: str = "") -> None:
        if self._end is None:
            self._end, self._end_message = reason, message
            self._turns.wake()

    async def _serve(self, asking: Asking) -> None:
        """Do one turn."""
        try:
            await self._wake()
            if asking.method == "exec":
                await self._exec(asking, decode(asking))
            else:
                await answered(asking, self._answers[asking.method](asking, decode(asking)))
        except ClawplaneError as error:
            asking.fail(error)
        except Exception:
            _log.exception("A turn of the session %s failed by a defect", self.spec.session)
            asking.fail(InternalError("The runner failed by a defect; its log has the details."))
            await self.python.drop()
        self._touch()

    async def _exec(self, asking: Asking, request: ExecRequest) -> None:
        self.exec_count += 1
        await self.execs.run(asking, request, self._memory.take_notes())
        self._touch()
        if request.tool == "python":
            self._unremembered = True
        self._noting.soon()

    # Turns that are no exec

    async def _reset(self, _: Asking, what: Reset) -> msgspec.Struct:
        await self.execs.background.end()
        await self.python.reset(what.context, forget=what.forget_context)
        return self._changed()

    async def _rollback(self, _: Asking, what: Rollback) -> msgspec.Struct:
        undone = await self.python.rollback(what.execs, what.before)
        _log.debug("The session %s went back by %d execs", self.spec.session, undone)
        return self._changed()

    async def _branch(self, _: Asking, what: Branch) -> msgspec.Struct:
        try:
            copy = await self.python.copy()
        except Gone as error:
            raise Conflict(f"The interpreter has ended and cannot be copied: {error}.") from None
        self._branched(self, what.session, copy)
        return Nothing()

    async def _sleep(self, _: Asking, what: Sleep) -> msgspec.Struct:
        if what.save:
            await self._save("it was asked for")
        else:
            await self._freeze(asked=True)
        return self.state()

    # Beside the turns

    def _interrupt(self, asking: Asking, what: Interrupt) -> None:
        running = self.execs.running
        if running is not None and what.exec_id in ("", running.request.id):
            running.end("cancelled", ASKED_GRACE_SECONDS)
        elif what.exec_id and not self._detached.end(what.exec_id, "cancelled"):
            for waiting in list(self._turns):
                if waiting.method == "exec" and decode(waiting).id == what.exec_id:
                    self._turns.remove(waiting)
                    self.execs.cancelled(waiting, decode(waiting))
        asking.answer(msgspec.msgpack.encode(Nothing()))

    # The clock

    def _touch(self) -> None:
        self.used = asyncio.get_running_loop().time()

    def _used_file(self) -> None:
        """Note that somebody looked at the files, which wakes nobody."""
        if self._state is SessionState.RUNNING:
            self._touch()

    def _used_beside(self) -> None:
        """Note that a detached command begins or has ended: the clock stands still meanwhile."""
        self._touch()
        self._turns.wake()

    def _next_step(self) -> float | None:
        options = self.spec.options
        steps = []
        if self._retiring is not None:
            return self.used
        if self.python.unprepared:
            return self.used + (_CROWDED_SECONDS if self._crowded() else _COPY_SECONDS)
        if self._unremembered:
            return self.used + _REMEMBER_SECONDS
        if self._detached:
            return None
        if self._state is SessionState.RUNNING:
            steps.append(options.sleep_after)
        elif options.save_after:
            steps.append(options.sleep_after + options.save_after)
        steps.append(options.expires_after)
        return min((self.used + after for after in steps if after), default=None)

    async def _look_at_clock(self) -> None:
        try:
            await self._next_idle_step()
        except ClawplaneError as error:
            # what cannot be started any more is a sandbox that has ended, which `_watch` is about to say, too
            self._finish("lost", f"nothing can be started in its sandbox any more: {error}")

    async def _next_idle_step(self) -> None:
        options = self.spec.options
        idle = asyncio.get_running_loop().time() - self.used
        if self._retiring is not None:
            await self._retire(*self._retiring)
        elif self.python.unprepared:
            await self.python.prepare()
        elif self._unremembered:
            await self._remember()
        elif self._detached:
            return
        elif options.expires_after and idle >= options.expires_after:
            self._finish("expired", f"nobody used it for {options.expires_after} s")
        elif self._state is SessionState.RUNNING and options.sleep_after and idle >= options.sleep_after:
            await self._freeze()
        elif self.sleeps and options.save_after and idle >= options.sleep_after + options.save_after:
            await self._save("it was not used for long")

    @property
    def sleeps(self) -> bool:
        """Whether it is frozen in memory, or about to go to disk."""
        return self._state is SessionState.SLEEPING

    async def _remember(self) -> None:
        if self._unremembered:
            self._unremembered = False
            await self._saver.remember(self.python, self.exec_count)

    async def _freeze(self, *, asked: bool = False) -> None:
        """Stop all processes; detached commands too, when somebody asked for it."""
        await self.python.prepare()
        await self._remember()
        async with self._waking:
            if self._state is SessionState.RUNNING and (asked or not self._detached):
                await self.residence.sleep(self)
                self._state = SessionState.SLEEPING
                self._noting.now()

    async def _wake(self) -> None:
        async with self._waking:
            if self.sleeps:
                await self.residence.wake(self)
                self._state = SessionState.RUNNING
                self._touch()
                self._noting.now()

    async def _retire(self, why: str, decided: asyncio.Future[None]) -> None:
        try:
            if self.sleeps:  # else somebody came, and needs it
                await self._save(why, or_stay=True)
        finally:
            self._retiring = None
            decided.set_result(None)

    async def _save(self, why: str, *, or_stay: bool = False) -> None:
        """Put the variables on disk and end this life; when they cannot be kept it may `stay` asleep with them."""
        if self.sleeps:
            await self.residence.wake(self)
        kept = await self._saver.save(self.python, self.exec_count, self.expires_at())
        if or_stay and not kept.saved:
            await self._saver.remember(self.python, self.exec_count)
            await self.residence.sleep(self)
            return
        self._state = SessionState.SLEEPING
        self._memory.restored, self._memory.lost = (), kept.lost
        self._noting.now()
        self._finish("saved" if kept.saved else "lost", f"{why}; {kept.sentence}")

    def _changed(self) -> LiveState:
        self._noting.now()
        return self.state()
