"""Run Python in a session's interpreter, and say how that ended.

Three things can end an exec: the interpreter's word that the code is done, the end of its process, which the kernel
tells, and our own kill. The word is believed as far as it goes: it cannot turn a time limit that has passed, or a
death, into success. When the process is gone or does not speak our language any more, the caller replaces it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

from clawplane.domain.sessions import ExecError
from clawplane.runner.sessions.interpreter import Gone
from clawplane.runner.sessions.residence import Interpreter, Residence
from clawplane.runner.sessions.running import Running
from clawplane.runner.sessions.words import PYTHON, Ended, death, stopped
from clawplane.sandbox.repl_wire import Done
from clawplane.sandbox.resident import MemberEnd

_END_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class PythonEnd(Ended):
    """How an exec ended, and whether its interpreter can go on."""

    survived: bool = True
    count: int = 0


async def execute_python(residence: Residence, interpreter: Interpreter, running: Running) -> PythonEnd:
    """Run `running.request.code`; when it returns, nothing of the code runs but what it left in the background."""
    member, request = interpreter.member, running.request
    interpreter.fresh = False
    tasks: set[asyncio.Task[Any]] = set()

    def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        tasks.add(task)
        return task

    def kill() -> None:
        begin(residence.resident.kill_tree(member))

    running.output.attach(interpreter.pipes)
    reading = begin(interpreter.pipes.read(running.output.take))
    talking = begin(interpreter.talk.run(request.code, request.context, running.hear, running.admit))
    dying = begin(member.wait())
    running.begin(
        kill=kill,
        interrupt=lambda: residence.resident.signal(member, signal.SIGINT),
    )
    done: Done | None = None
    try:
        await asyncio.wait([talking, dying], return_when=asyncio.FIRST_COMPLETED)
        if talking.done() and not talking.exception():
            done = talking.result()
        if done is None or done.broken:
            if member.ending:  # its socket closes before its end is told, and its own reason is the better one
                await asyncio.wait([dying], timeout=_END_SECONDS)
            await residence.resident.kill_tree(member)
            async with asyncio.timeout(_END_SECONDS):
                await dying
    finally:
        running.over()
        for task in (reading, talking):
            task.cancel()
        await asyncio.gather(reading, talking, return_exceptions=True)
    running.output.take_waiting()
    _note_left_out(running)
    if done is None:
        failure = talking.exception() if talking.done() and not talking.cancelled() else None
        return _died(running, dying.result(), str(failure) if isinstance(failure, Gone) else "")
    end = _finished(running, done)
    if end.survived and running.cause is not None and not await _calmed(interpreter):
        running.notes.append("The interpreter said nothing more and was replaced; its variables are lost.")
        return replace(end, survived=False)
    return end


async def _calmed(interpreter: Interpreter) -> bool:
    """Have an interrupt forgotten that came too late; False when the interpreter has to be replaced."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            await interpreter.talk.calm()
    except (Gone, TimeoutError):
        return False
    return True


def _finished(running: Running, done: Done) -> PythonEnd:
    survived = not done.broken
    running.notes.extend(note[:500] for note in done.notes[:20])
    if done.broken:
        running.notes.append(
            "The interpreter could not be put in order again and was replaced; its variables are lost."
        )
    if running.cause is not None:
        if survived:
            running.notes.append("The code was interrupted; the interpreter goes on with its variables.")
        status, error = stopped(running)
        return PythonEnd(status, error, survived=survived, count=done.count)
    if done.error is not None:
        raised = done.error
        running.output.traceback(raised.traceback)
        detail = ExecError(name=raised.name, value=raised.value, traceback=raised.traceback)
        error = f"{raised.name}: {raised.value}" if raised.value else raised.name
        return PythonEnd("error", error, detail, survived=survived, count=done.count)
    if done.status != "ok" and done.exit_code:
        error = f"SystemExit: {done.exit_code}"
        return PythonEnd("error", error, exit_code=done.exit_code, survived=survived, count=done.count)
    return PythonEnd("ok", exit_code=done.exit_code, survived=survived, count=done.count)


def _died(running: Running, end: MemberEnd, gone: str) -> PythonEnd:
    if running.cause is not None:
        running.notes.append("The code did not stop when it was interrupted, so the interpreter was replaced; ")
        running.notes[-1] += "its variables are lost."
        status, error = stopped(running)
        return PythonEnd(status, error, exit_code=end.exit_code, survived=False)
    running.notes.append("The interpreter was replaced; its variables are lost.")
    if gone and end.reason == "killed":
        return PythonEnd("exited", f"Error: {gone}", survived=False)
    status, error = death(end, running, PYTHON)
    return PythonEnd(status, error, exit_code=end.exit_code, survived=False)


def _note_left_out(running: Running) -> None:
    if running.left_out:
        running.notes.append(
            f"{running.left_out} results were left out: an exec may show up to 16 MiB; write large ones to a file."
        )
