"""One event loop per interpreter, for cells that await. It runs while such a cell runs; its tasks wait in between.

A cell without await runs outside of any loop, so asyncio.run works there as in a script. The loop polls without a
kernel object of its own: after a fork, only its wake-up pipe must be made anew.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final

_POLL_CODE: Final = selectors.PollSelector.select.__code__
_CancelledError = asyncio.CancelledError
_Loop, _Selector = asyncio.SelectorEventLoop, selectors.PollSelector
_Task = asyncio.Task
_set_event_loop = asyncio.set_event_loop
_get_running_loop = asyncio._get_running_loop
_set_running_loop = asyncio._set_running_loop
_sys = sys


class EventLoop:
    """The loop of top-level await, made when it is first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.SelectorEventLoop | None = None
        self._main: asyncio.Task[Any] | None = None
        self._interrupted = False

    def prepare(self) -> None:
        """Before a cell: no loop runs, and ours is the current one if there is one."""
        if _get_running_loop() is not None:
            _set_running_loop(None)
        if self._loop is not None and not self._loop.is_closed():
            _set_event_loop(self._loop)

    def run(self, work: Coroutine[Any, Any, object], listen: Callable[[Callable[[int, Any], Any]], None]) -> object:
        """Run `work` to its end; an interrupt cancels it while it waits, and raises where it computes."""
        loop = self._ready()
        task: asyncio.Task[object] = _Task(work, loop=loop)
        self._main = task
        listen(self._on_interrupt)
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            if not task.done():  # it struck another task, or the loop itself
                task.cancel()
                self._settle(loop, task)
            raise
        except _CancelledError as cancelled:
            if self._interrupted:
                raise KeyboardInterrupt().with_traceback(cancelled.__traceback__) from None
            raise
        finally:
            self._main = None
            _let_threads_go(loop)

    def remake_after_fork(self) -> None:
        """Share nothing with the process this one was forked from."""
        loop: Any = self._loop
        if loop is None or loop.is_closed():
            return
        old = loop._selector
        loop._selector = _Selector()
        for own in (loop._ssock, loop._csock):
            own.close()  # the numbers hold something else by now, and are ours to close
        loop._internal_fds -= 1
        loop._make_self_pipe()
        old.close()

    def _ready(self) -> asyncio.SelectorEventLoop:
        if self._loop is None or self._loop.is_closed():
            self._loop = _Loop(_Selector())
            _set_event_loop(self._loop)
        self._interrupted = False
        return self._loop

    def _settle(self, loop: asyncio.SelectorEventLoop, task: asyncio.Task[object]) -> None:
        try:
            loop.run_until_complete(task)
        except (KeyboardInterrupt, _CancelledError):
            pass
        except BaseException:
            pass  # the interrupt is what ends the cell

    def _on_interrupt(self, _number: int, frame: FrameType | None) -> None:
        task = self._main
        loop = self._loop
        waits = frame is not None and frame.f_code is _POLL_CODE
        if waits and task is not None and loop is not None and not task.done():
            self._interrupted = True
            loop.call_soon_threadsafe(task.cancel)  # which also wakes the poll: Python resumes it otherwise
            return
        raise KeyboardInterrupt


def _let_threads_go(loop: Any) -> None:
    """End the threads of asyncio.to_thread when they are done: while they idle, the interpreter cannot be copied."""
    executor = loop._default_executor
    if executor is not None and executor._thread_name_prefix == "asyncio":
        loop._default_executor = None
        executor.shutdown(wait=False)
