"""Run cells: compile, execute once, show the value, say how it ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

from clawplane.sandbox.inside.repl import bundles, figures, ipython, snapshot
from clawplane.sandbox.inside.repl.cells import Cell, compile_cell, is_coroutine
from clawplane.sandbox.inside.repl.display import Publisher, make_display
from clawplane.sandbox.inside.repl.loop import EventLoop
from clawplane.sandbox.inside.repl.mainmodule import MainModule
from clawplane.sandbox.inside.repl.order import Order
from clawplane.sandbox.inside.repl.snapshot import Bounds, Report
from clawplane.sandbox.inside.repl.streams import Streams
from clawplane.sandbox.inside.repl.texts import type_name
from clawplane.sandbox.inside.repl.tracebacks import Tracebacks
from clawplane.sandbox.inside.repl.wire import Channel, encode
from clawplane.sandbox.repl_wire import MAIN

_exec, _eval, _getpid, _exit, _getcwd = exec, eval, os.getpid, os._exit, os.getcwd
_current_frames = sys._current_frames
_NO_NUMBER: Final = 1
_LARGEST_EXIT: Final = 1 << 31


class Context:
    """One namespace; `futures` are the `from __future__` flags of its cells so far."""

    def __init__(self) -> None:
        self.module = MainModule()
        self.futures = 0


class Kernel:
    """The state of an interpreter between requests."""

    def __init__(self, channel: Channel) -> None:
        self.streams = Streams()
        self.figures = figures.Figures(self._show_figure)
        self.publisher = Publisher(channel, (figures.render,))
        self.figures.install()
        self.loop = EventLoop()
        self.tracebacks = Tracebacks()
        self.contexts: dict[str, Context] = {MAIN: Context()}
        self.count = 0
        self.owner = _getpid()
        display = make_display(self.publisher)
        ipython.Functions(self.publisher, display).install()
        self.order = Order(self.streams, {"display": display})

    def begin(self) -> None:
        """Be this process's: a kernel may have been made before the fork that it serves in."""
        self.owner = _getpid()
        self.streams.begin()
        self.figures.begin()
        self.order.begin()

    def renew(self) -> None:
        """Forget every cell, and let go of what `begin` took."""
        self.contexts.clear()
        self._new_context(MAIN)
        self.tracebacks.forget()
        self.count = 0
        self.streams.forget()

    def run(self, number: str, nonce: str, code: str, name: str) -> None:
        """Run one cell and send done; ends the process when it cannot be put in order again."""
        context = self._context(name)
        self.count += 1
        filename = f"Cell {self.count}"
        self.publisher.begin(number, nonce)
        self.order.prepare(context.module)
        problem = self._guarded(lambda: self._run(context, code, filename))
        if _getpid() != self.owner:
            self._leave_fork(problem)
        error: dict[str, Any] | None = None
        if problem is not None:
            described: list[dict[str, Any]] = []
            again = self._guarded(lambda: described.append(self.tracebacks.describe(problem)))
            error = described[0] if again is None else _plainly(problem)
        self._finish(number, nonce, problem, error)

    def forget(self, name: str) -> None:
        """End a context; the main one begins anew, and its count with it when there is no other."""
        self.contexts.pop(name, None)
        if not self.contexts:
            self.count = 0
            self.tracebacks.forget()
        if name == MAIN:
            self._new_context(MAIN)

    def save(self, descriptor: int, bounds: Bounds) -> Report:
        """Save the variables of all contexts."""
        session = {
            "count": self.count,
            "directory": _directory(),
            "path": [each for each in sys.path if type(each) is str],
            "sources": self.tracebacks.sources(),
            "futures": {name: context.futures for name, context in self.contexts.items()},
        }
        reports: list[Report] = []
        modules = {name: context.module for name, context in self.contexts.items()}
        self.order.prepare(self.contexts[MAIN].module)
        problem = self._guarded(lambda: reports.append(snapshot.save(modules, descriptor, bounds, session)))
        self.order.restore()
        return reports[0] if problem is None else Report([], [("", bundles.brief(problem))])

    def restore(self, descriptor: int) -> Report:
        """Restore what `save` wrote, on top of what there is."""
        told: list[tuple[Report, dict[str, Any]]] = []
        self.order.prepare(self.contexts[MAIN].module)
        problem = self._guarded(lambda: told.append(snapshot.restore(self._module_of, descriptor, _go_back)))
        self.order.restore()
        if problem is not None:
            return Report([], [("", bundles.brief(problem))])
        report, session = told[0]
        self.count = max(self.count, int(session.get("count", 0)))
        for filename, source in session.get("sources", {}).items():
            self.tracebacks.know(filename, source)
        for name, futures in session.get("futures", {}).items():
            self._context(name).futures = futures
        return report

    def _module_of(self, name: str) -> MainModule:
        return self._context(name).module

    def _context(self, name: str) -> Context:
        return self.contexts.get(name) or self._new_context(name)

    def _new_context(self, name: str) -> Context:
        context = self.contexts[name] = Context()
        return context

    def _run(self, context: Context, code: str, filename: str) -> None:
        self.loop.prepare()
        self.tracebacks.know(filename, code)
        cell = compile_cell(code, filename, context.futures)
        context.futures = cell.futures
        context.module.definitions.learn(cell.tree, filename, cell.futures)
        names = context.module.__dict__
        if cell.in_loop:
            value = self.loop.run(_drive(cell, names), self.order.listen)
            self.order.listen()
        else:
            if cell.body is not None:
                _exec(cell.body, names)
            value = None if cell.last is None else _eval(cell.last, names)
        if value is not None:
            if not cell.silent:
                self.publisher.result(value)
                self.figures.seen(value)
            names["_"], names["__"] = value, names.get("_")
        self.figures.show_open()

    def _show_figure(self, kind: str, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.publisher.show(kind, data, metadata)

    def _guarded(self, action: Callable[[], object]) -> BaseException | None:
        """Call `action` as user code: it can be interrupted, and whatever it raises is returned."""
        problem: BaseException | None = None
        try:
            try:
                self.order.listen()
                action()
            finally:
                self.order.calm()
        except BaseException as raised:
            problem = raised
            self.order.calm()
        return problem

    def _finish(self, number: str, nonce: str, problem: BaseException | None, error: dict[str, Any] | None) -> None:
        notes = self.publisher.end()
        self.streams.flush()
        broken = False
        try:
            self.order.restore()
        except BaseException as failure:
            broken = True
            notes.append(f"the interpreter is damaged and was ended: {bundles.brief(failure)}")
        code = _exit_code(problem)
        message = {
            "op": "done",
            "id": number,
            "nonce": nonce,
            "status": "ok" if problem is None else "error" if code is None else "exited",
            "error": error,
            "exit_code": code,
            "count": self.count,
            "threads": len(_current_frames()) - 1,
            "notes": notes,
            "broken": broken,
        }
        self.publisher.channel.send(encode(message))
        if broken:
            _exit(1)

    def _leave_fork(self, problem: BaseException | None) -> None:
        """End a process that user code forked and that ran off the end of its cell, as a script would end."""
        status = _exit_code(problem)
        if problem is not None and status is None:
            status = 1
            print("\n".join(self.tracebacks.describe(problem)["traceback"]), file=sys.__stderr__)
        self.streams.flush()
        _exit((status or 0) & 0xFF)


def _directory() -> str:
    """Return the working directory, "" when it has been removed."""
    try:
        return _getcwd()
    except OSError:
        return ""


def _go_back(session: dict[str, Any]) -> None:
    """Let modules be found where they were when the session was saved."""
    try:
        os.chdir(session["directory"])
    except OSError:
        pass  # the directory is gone, as it would be for a live session
    sys.path.extend(each for each in session["path"] if each not in sys.path)


async def _drive(cell: Cell, names: dict[str, Any]) -> object:
    """Run a cell inside the running loop."""
    value: object = None
    for code in (cell.body, cell.last):
        if code is not None:
            value = _run_code(code, names)
            if is_coroutine(code):
                value = await value  # type: ignore[misc]
    return None if cell.last is None else value


def _run_code(code: CodeType, names: dict[str, Any]) -> object:
    return _eval(code, names)


def _exit_code(problem: BaseException | None) -> int | None:
    """Return the status that a script would end with after SystemExit, None after anything else."""
    if not issubclass(type(problem), SystemExit):  # isinstance would ask the exception itself
        return None
    try:
        code = problem.code  # type: ignore[union-attr]
    except BaseException:
        return _NO_NUMBER
    if code is None:
        return 0
    if type(code) is int and -_LARGEST_EXIT < code < _LARGEST_EXIT:
        return code
    return _NO_NUMBER


def _plainly(problem: BaseException) -> dict[str, Any]:
    name = type_name(problem)
    return {"name": name, "value": "", "traceback": [name]}
