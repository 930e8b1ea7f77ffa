"""Put the interpreter in order between two cells.

Additions of the user stay: names in builtins, paths, modules, replaced modules. What was there from the start comes
back where it is gone or was replaced by something that the language itself needs: builtins, streams, `__main__`, import
machinery. Tracing and profiling end with the cell, as does a recursion limit too low for anything to work. Between
cells all signals wait: a handler of the user would raise in our code.
"""

from __future__ import annotations

import builtins
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, NoReturn

from clawplane.sandbox.inside.repl.streams import Streams
from clawplane.sandbox.inside.signal_mask import ALL, SET, change_mask

_sys, _builtins = sys, builtins
_settrace, _setprofile = sys.settrace, sys.setprofile
_c_signal: Any = sys.modules["_signal"]
_set_handler: Callable[[int, Any], Any] = _c_signal.signal
_sigmask, _ALL, _SET = change_mask, ALL, SET
_raise_interrupt = signal.default_int_handler
_SIGINT, _SIG_IGN = int(signal.SIGINT), int(signal.SIG_IGN)
_LOWEST_RECURSION_LIMIT: Final = 200
_USUAL_RECURSION_LIMIT: Final = 1000
_CORE: Final[tuple[str, ...]] = (
    *("sys", "builtins", "os", "posix", "io", "time", "codecs"),
    *("abc", "warnings", "types", "_thread", "json", "random"),
)
"""Modules that Python's own machinery looks up by name."""


def _ignore_interrupt(_number: int, _frame: object) -> None:
    return


def _refuse_audit_hook(_hook: object) -> NoReturn:
    raise PermissionError("an audit hook cannot be taken back and would outlive this cell; add it in a subprocess")


class Order:
    """What an interpreter was when no user code had run yet."""

    def __init__(self, streams: Streams, additions: dict[str, object]) -> None:
        self._streams = streams
        self._dict = _builtins.__dict__
        self._dict.update(additions)
        setattr(_sys, "addaudithook", _refuse_audit_hook)  # noqa: B010 - type checkers know better
        self._pristine = dict(self._dict)
        self._modules = _sys.modules
        # names of our own: to compare them after each cell must not touch, and so copy, the pages of all others
        self._known = {name.encode().decode(): module for name, module in self._modules.items()}
        self._core = [(name, self._known[name]) for name in _CORE if name in self._known]
        self._path: list[str] = []
        self._finders: list[Any] = []
        self._hooks: list[Any] = []

    def begin(self) -> None:
        """Take the import machinery for what it is in this process, and wait for the first cell."""
        self._path = list(_sys.path)
        self._finders, self._hooks = list(_sys.meta_path), list(_sys.path_hooks)
        self.calm()

    def prepare(self, main: ModuleType) -> None:
        """Before a cell: `main` is `__main__`. An interrupt that waits already is meant for this cell."""
        names = main.__dict__
        names["__name__"] = "__main__"
        names["__builtins__"] = _builtins
        self._modules["__main__"] = main

    def forget_interrupt(self) -> None:
        """Drop an interrupt that waits: it came too late for the last cell."""
        _set_handler(_SIGINT, _SIG_IGN)
        _set_handler(_SIGINT, _ignore_interrupt)

    def listen(self, handler: Callable[[int, Any], Any] = _raise_interrupt) -> None:
        """From now on signals are heard, and an interrupt raises KeyboardInterrupt."""
        _set_handler(_SIGINT, handler)
        _sigmask(_SET, ())

    def calm(self) -> None:
        """After user code, whatever it did: no tracing, builtins as they were, no signal until the next cell.

        Uses nothing that user code could have replaced; a tracing function that raises here has removed itself.
        """
        tries = 3
        while tries:
            tries -= 1
            try:
                _settrace(None)
                _setprofile(None)
                _sigmask(_SET, _ALL)
                _set_handler(_SIGINT, _ignore_interrupt)
                self._dict.update(self._pristine)
            except BaseException:
                continue
            else:
                return

    def restore(self) -> None:
        """Put the rest back; raises OSError when descriptors are beyond repair."""
        _silence_monitoring()
        if _sys.getrecursionlimit() < _LOWEST_RECURSION_LIMIT:
            _sys.setrecursionlimit(_USUAL_RECURSION_LIMIT)
        self._restore_modules()
        self._restore_import()
        self._streams.restore()

    def _restore_modules(self) -> None:
        if _sys.modules is not self._modules:
            self._modules.update(_sys.modules)
            _sys.modules = self._modules
        modules = self._modules
        for name, module in self._core:
            if modules.get(name) is not module:
                modules[name] = module
        if not self._known.keys() <= modules.keys():
            for name, module in self._known.items():
                modules.setdefault(name, module)

    def _restore_import(self) -> None:
        if type(_sys.path) is not list or not _sys.path:
            _sys.path = list(self._path)
        if type(_sys.meta_path) is not list or not _sys.meta_path:
            _sys.meta_path = list(self._finders)
        if type(_sys.path_hooks) is not list or not _sys.path_hooks:
            _sys.path_hooks = list(self._hooks)


def _silence_monitoring() -> None:
    monitoring: Any = getattr(_sys, "monitoring", None)  # since Python 3.12
    if monitoring is None:
        return
    for tool in range(6):
        if monitoring.get_tool(tool) is not None:
            monitoring.set_events(tool, 0)
