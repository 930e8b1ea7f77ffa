"""Say what an exception was: the user's own frames and lines, none of ours, and never fail at it.

The traceback and linecache modules used here are private copies, so that changes to the real ones mean nothing. The
sources of cells are known to both linecaches: inspect.getsource works in a session.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from types import ModuleType, TracebackType
from typing import Any, Final

from clawplane.sandbox.inside.repl.texts import clipped, exact_text, type_name

_OWN_DIRECTORY: Final = os.path.dirname(os.path.abspath(__file__))
_MOST_SOURCE: Final = 4 << 20
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_MOST_LINES: Final = 400
_LONGEST_LINE: Final = 4000
_LONGEST_VALUE: Final = 16_000
_DEEP: Final = 1500
_SHOWN_OF_DEEP: Final = 100
_sys = sys
_trace_of: Any = BaseException.__dict__["__traceback__"].__get__
"""Reads the real traceback, whatever a subclass says."""


def _private(name: str) -> Any:
    """Load another copy of a module of the standard library, known to nobody else."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = ModuleType(name)
    module.__spec__ = spec
    spec.loader.exec_module(module)
    return module


_TRACEBACK: Final = _private("traceback")
_LINECACHE: Final = _private("linecache")
_TRACEBACK.linecache = _LINECACHE


class Tracebacks:
    """Formats exceptions; knows the sources of all cells."""

    def __init__(self) -> None:
        self._traceback, self._lines = _TRACEBACK, _LINECACHE
        self._sizes: dict[str, int] = {}
        self._size = 0

    def know(self, filename: str, source: str) -> None:
        """Keep the source of a cell; the oldest are forgotten when all are too large together."""
        entry = (len(source), None, [f"{line}\n" for line in _LINE_END.split(source)], filename)
        while self._sizes and self._size + len(source) > _MOST_SOURCE:
            oldest = next(iter(self._sizes))
            self._size -= self._sizes.pop(oldest)
            for cache in self._caches():
                cache.pop(oldest, None)
        self._sizes[filename] = len(source)
        self._size += len(source)
        for cache in self._caches():
            cache[filename] = entry

    def forget(self) -> None:
        """Know no source any more."""
        for name in self._sizes:
            for cache in self._caches():
                cache.pop(name, None)
        self._sizes.clear()
        self._size = 0

    def sources(self) -> dict[str, str]:
        """Return the sources of the cells that are still known, by file name."""
        cache = self._lines.cache
        return {name: "".join(cache[name][2]) for name in self._sizes if name in cache}

    def describe(self, problem: BaseException) -> dict[str, Any]:
        """Return name, value and traceback lines of an exception (the shape of repl_wire.Raised)."""
        name = type_name(problem)
        value = _value(problem)
        try:
            lines = self._format(problem)
        except BaseException:
            lines = [f"{name}: {value}" if value else name]
        return {"name": name, "value": value, "traceback": _bounded(lines)}

    def _format(self, problem: BaseException) -> list[str]:
        trace: TracebackType | None = _trace_of(problem)
        self._add_line(problem)
        depth = _depth(trace)
        limit = None if depth < _DEEP else -_SHOWN_OF_DEEP
        told = self._traceback.TracebackException(type(problem), problem, trace, limit=limit, compact=True)
        self._lines.checkcache()
        self._strip_leading(told)
        seen: set[int] = set()
        self._strip_own(told, seen)
        chunks = told.format() if told.stack or told.__cause__ or told.__context__ else told.format_exception_only()
        if getattr(told, "exceptions", None):
            chunks = told.format()
        return [line for chunk in chunks for line in exact_text(chunk).rstrip("\n").split("\n")]

    def _add_line(self, problem: BaseException) -> None:
        """Give a syntax error the line it is about, when the compiler saw a tree and not the text."""
        if type(problem) is SyntaxError and problem.text is None and problem.filename in self._sizes:
            problem.text = self._lines.getline(problem.filename, problem.lineno or 1)

    def _strip_leading(self, told: Any) -> None:
        """Drop everything before the first frame of a cell: ours, and the event loop's that ran it."""
        for index, frame in enumerate(told.stack):
            if frame.filename in self._sizes:
                del told.stack[:index]
                return
        if told.stack and told.stack[0].filename.startswith(_OWN_DIRECTORY) and _is_compile_problem(told):
            del told.stack[:]

    def _strip_own(self, told: Any, seen: set[int]) -> None:
        if told is None or id(told) in seen:
            return
        seen.add(id(told))
        told.stack[:] = [frame for frame in told.stack if not frame.filename.startswith(_OWN_DIRECTORY)]
        for other in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())):
            self._strip_own(other, seen)

    def _caches(self) -> list[dict[str, Any]]:
        caches = [self._lines.cache]
        shared = _sys.modules.get("linecache")
        if type(shared) is ModuleType and type(shared.__dict__.get("cache")) is dict:
            caches.append(shared.__dict__["cache"])
        return caches


def _is_compile_problem(told: Any) -> bool:
    return all(frame.filename.startswith(_OWN_DIRECTORY) or frame.filename.endswith("ast.py") for frame in told.stack)


def _depth(trace: TracebackType | None) -> int:
    depth = 0
    while trace is not None and depth < _DEEP:
        depth += 1
        trace = trace.tb_next
    return depth


def _value(problem: BaseException) -> str:
    try:
        return clipped(exact_text(str(problem)), _LONGEST_VALUE)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return "<its text cannot be shown: str() of it failed>"


def _bounded(lines: list[str]) -> list[str]:
    if len(lines) > _MOST_LINES:
        half = _MOST_LINES // 2
        left_out = f"  ... {len(lines) - 2 * half} lines left out ..."
        lines = [*lines[:half], left_out, *lines[-half:]]
    return [clipped(line, _LONGEST_LINE) for line in lines]
