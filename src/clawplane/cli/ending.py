"""Turn every way a command can end into an exit code and at most one sentence and a hint, never a traceback.

All commands pass through `conclude`, so none of them catches anything it cannot mend. What a client command waits for
runs in `run`, where SIGTERM and a closed terminal end it as Ctrl-C does: through its `finally` clauses.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from clawplane.cli.output import DEFECT, FAILED, INTERRUPTED, PIPE_CLOSED, TERMINATED, fail, say
from clawplane.domain.errors import ClawplaneError, InternalError, InvalidArgument

T = TypeVar("T")


def conclude(command: Callable[[], object]) -> int:
    """Run a command to its end and return the exit code."""
    _mend_streams()
    try:
        code = _code_of(command)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return PIPE_CLOSED
    except ClawplaneError as error:
        return _failed(error, FAILED)
    except OSError as error:
        _silence_stdout()
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or type(error).__name__
        hint = "Look at the file or directory, its permissions and the free space, and try again."
        return _failed(InvalidArgument(f"{place}{reason}.", hint=hint), FAILED)
    except Exception as error:
        return _defect(error)
    return code


def _code_of(command: Callable[[], object]) -> int:
    try:
        command()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        say(str(end.code))
        return FAILED
    return 0


def _failed(error: ClawplaneError, code: int) -> int:
    try:
        fail(error, as_json="--json" in sys.argv)
    except OSError:
        return code  # nobody can be told; the code still says it
    return code


def _defect(error: Exception) -> int:
    if logging.getLogger().handlers:  # a daemon: its log is where a traceback belongs
        logging.getLogger("clawplane").critical("ended by a defect", exc_info=error)
    elif os.environ.get("CLAWPLANE_LOG") == "debug":
        sys.excepthook(type(error), error, error.__traceback__)
    return _failed(
        InternalError(
            f"clawplane failed unexpectedly: {type(error).__name__}: {error}",
            hint="Set CLAWPLANE_LOG=debug to see where, and report it.",
        ),
        DEFECT,
    )


def _mend_streams() -> None:
    """Give closed streams a place to write to, and let no character that a terminal lacks end a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - lives until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """Keep the interpreter from complaining once more when it flushes a stdout that takes nothing."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what a client command waits for; SIGTERM and SIGHUP cancel it."""
    ended_by: list[signal.Signals] = []

    async def guarded() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: signal.Signals) -> None:
            ended_by.append(number)
            if task is not None:
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise SystemExit(128 + ended_by[0] if ended_by else TERMINATED) from None
