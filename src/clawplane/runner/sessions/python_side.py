"""The Python half of a session: its interpreter, the copies to go back to, and what happens when either is gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace

from clawplane.domain.errors import Conflict, Unavailable
from clawplane.runner.sessions.copies import Copy, copied
from clawplane.runner.sessions.execute_python import PythonEnd, execute_python
from clawplane.runner.sessions.interpreter import Gone
from clawplane.runner.sessions.looking import only_looks
from clawplane.runner.sessions.residence import Interpreter, Residence
from clawplane.runner.sessions.running import Running
from clawplane.runner.sessions.undo import Undo
from clawplane.runner.sessions.variables import look_again, variables
from clawplane.sandbox.repl_wire import MAIN, Kept

_TALK_SECONDS = 10.0
_ENDED = "The interpreter had ended between two calls and was replaced; its variables are lost."
_OUT_OF_MEMORY = "Memory was out between two calls: the interpreter was ended and replaced; its variables are lost."
_SILENT = "The interpreter said nothing more between two calls and was replaced; its variables are lost."


class PythonSide:
    """One session's interpreter. Its methods are called one at a time."""

    def __init__(
        self, residence: Residence, environment: Mapping[str, str], undo: int, interpreter: Interpreter | None = None
    ) -> None:
        """Begin with an interpreter, or None to fork one when it is needed."""
        self._residence = residence
        self._environment = environment
        self._interpreter = interpreter
        self._undo = Undo(residence, undo)
        self._dying: set[asyncio.Task[None]] = set()
        self._untold = ""
        """What the next exec is to be told: that an interpreter was lost when nobody was there to hear it."""

    async def ready(self) -> Interpreter:
        """Return an interpreter that takes requests; raises Unavailable."""
        if self._interpreter is not None and self._interpreter.member.end is not None:
            await self._lose(_ENDED)
        if self._interpreter is None:
            self._interpreter = await self._started()
        return self._interpreter

    async def _started(self) -> Interpreter:
        try:
            return await self._residence.start_python(self._environment)
        except Unavailable:
            if not self._dying or not self._residence.alive:
                raise
            # a flood of processes takes up the limit until the last one has ended
            await asyncio.gather(*self._dying, return_exceptions=True)
            return await self._residence.start_python(self._environment)

    @property
    def fresh(self) -> bool:
        """Tell whether there is nothing of the session's own in it."""
        return self._interpreter is None or self._interpreter.fresh

    async def run(self, running: Running) -> PythonEnd:
        """Run an exec; an interpreter that did not survive is let go of."""
        interpreter = await self._ready_with_copy()
        if self._untold:
            running.notes.append(self._untold)
            self._untold = ""
        end: PythonEnd | None = None
        try:
            async with variables(interpreter.talk, running.request.environment):
                end = await execute_python(self._residence, interpreter, running)
                if not end.survived:
                    raise Gone
        except (Gone, TimeoutError):
            if end is None:
                await self.drop()
                raise Unavailable("The interpreter ended before the code began.", hint="Run it again.") from None
            end = replace(end, survived=False)
        if end.survived:
            await self._undo.ran(running.request.id, changed=not only_looks(running.request.code))
        else:
            await self.drop()
        return end

    @property
    def unprepared(self) -> bool:
        """Tell whether `prepare` has something to do."""
        return self._interpreter is None or self._undo.due

    async def prepare(self) -> None:
        """Do now what the next exec would have to wait for: a copy to go back to, an interpreter for a lost one."""
        await self._ready_with_copy()

    async def _ready_with_copy(self) -> Interpreter:
        interpreter = await self.ready()
        try:
            await self._undo.ensure(interpreter)
        except Gone:
            await self._lose(_SILENT)
            interpreter = await self.ready()
        return interpreter

    async def installed(self) -> None:
        """Note that packages were installed into the workspace."""
        if self._interpreter is not None:
            with contextlib.suppress(Gone, TimeoutError):  # the next exec finds out
                await look_again(self._interpreter.talk)

    async def reset(self, context: str, *, forget: bool) -> None:
        """Forget everything, or with a name that context alone."""
        if context == MAIN:
            if forget:
                raise Conflict("The session's own context cannot be ended.", hint="Reset it, or delete the session.")
            await self.drop()
            await self.ready()
            self._untold = ""
            return
        try:
            async with asyncio.timeout(_TALK_SECONDS):
                await (await self.ready()).talk.forget(context)
        except (Gone, TimeoutError):
            await self._lose(_SILENT)

    async def rollback(self, execs: int, before: str) -> int:
        """Go back, and return by how many execs; raises Conflict when that cannot be."""
        copy, undone = await self._undo.back(execs, before)
        self._let_go()
        self._untold = ""
        if copy is None:
            await self.ready()
            return undone
        self._interpreter = await copy.resume()
        try:
            await self._undo.renew(self._interpreter)
        except Gone:
            await self._lose(_SILENT)
        return undone

    async def copy(self) -> Copy:
        """Return a copy for a branch; raises Gone, or CannotCopy with the reason."""
        copy = await copied(self._residence, await self.ready(), "branch")
        await copy.adopt()
        return copy

    async def save(self, file: int, *, largest: int, seconds: float, room: int) -> Kept:
        """Write the variables to a file; raises Gone."""
        interpreter = await self.ready()
        return await interpreter.talk.save(file, largest=largest, seconds=seconds, room=room)

    async def restore(self, file: int) -> Kept:
        """Read the variables back; raises Gone."""
        interpreter = await self.ready()
        kept = await interpreter.talk.restore(file)
        interpreter.fresh = False
        await self._undo.renew(interpreter)
        return kept

    async def names(self) -> tuple[str, ...]:
        """Return the names of the variables there are; raises Gone."""
        if self._interpreter is None:
            return ()
        return tuple(name for name, _ in (await self._interpreter.talk.names()).names)

    async def drop(self) -> None:
        """End the interpreter and forget the copies of it."""
        await self._undo.clear()
        self._let_go()

    async def _lose(self, what: str) -> None:
        """Let go of an interpreter that is of no use any more, and keep it in mind for who asks next."""
        if not self.fresh:
            self._untold = _OUT_OF_MEMORY if await self._fell_for_memory() else what
        await self.drop()

    async def _fell_for_memory(self) -> bool:
        """Tell whether the interpreter was killed because memory was out."""
        if self._interpreter is None:
            return False
        member = self._interpreter.member
        if member.ending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TALK_SECONDS):
                    await member.wait()
        return member.end is not None and member.end.reason == "memory"

    async def close(self) -> None:
        """End everything Python of this session and wait until it is gone."""
        await self.drop()
        await asyncio.gather(*self._dying, return_exceptions=True)

    def _let_go(self) -> None:
        old, self._interpreter = self._interpreter, None
        if old is not None:
            task = asyncio.create_task(self._ended(old))
            self._dying.add(task)
            task.add_done_callback(self._dying.discard)

    async def _ended(self, interpreter: Interpreter) -> None:
        try:
            await self._residence.resident.kill_tree(interpreter.member)
        finally:
            interpreter.close()
