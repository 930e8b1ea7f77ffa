"""Take functions and named tuples of cells apart for a pickle, and put them together again.

A pickle names the functions that rebuild its objects. Ours are found under a module name that exists only while
something is saved or restored.
"""

from __future__ import annotations

import collections
import contextlib
import marshal
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import CellType, FunctionType, ModuleType
from typing import Any, Final

_ALIAS: Final = "_session_snapshot"


_target: ContextVar[dict[str, Any]] = ContextVar("the namespace that functions are restored into")


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Let pickles find the functions of this module."""
    module = ModuleType(_ALIAS)
    for function in (make_function, fill_function, make_named_tuple):
        module.__dict__[function.__name__] = function
    sys.modules[_ALIAS] = module
    try:
        yield
    finally:
        sys.modules.pop(_ALIAS, None)


@contextlib.contextmanager
def into(names: dict[str, Any]) -> Iterator[None]:
    """Restore functions into this namespace for a while."""
    token = _target.set(names)
    try:
        yield
    finally:
        _target.reset(token)


def reduce_function(function: FunctionType) -> tuple[Any, ...]:
    """Return what a pickle needs to know about a function; raises ValueError for code that cannot be marshalled."""
    cells = function.__closure__ or ()
    state = {
        "closure": [_content(cell) for cell in cells],
        "__defaults__": function.__defaults__,
        "__kwdefaults__": function.__kwdefaults__,
        "__annotations__": function.__annotations__,
        "__dict__": function.__dict__,
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
    }
    arguments = (marshal.dumps(function.__code__), function.__name__, len(cells))
    return make_function, arguments, state, None, None, fill_function


def reduce_class(kind: type) -> tuple[Any, ...] | None:
    """Return what a pickle needs to know about a named tuple, None for other classes."""
    fields = getattr(kind, "_fields", None)
    if kind.__bases__ != (tuple,) or not isinstance(fields, tuple):
        return None
    return make_named_tuple, (kind.__name__, fields, getattr(kind, "_field_defaults", {}))


def make_named_tuple(name: str, fields: tuple[str, ...], defaults: dict[str, Any]) -> type:
    """Make a named tuple class of the session's own."""
    return collections.namedtuple(name, fields, defaults=tuple(defaults.values()), module="__main__")


def make_function(code: bytes, name: str, cells: int) -> FunctionType:
    """Make a function in the namespace being restored; its closure is filled later, since it may contain itself."""
    closure = tuple(CellType() for _ in range(cells))
    return FunctionType(marshal.loads(code), _target.get(), name, None, closure)


def fill_function(function: FunctionType, state: dict[str, Any]) -> None:
    """Give a function the rest of what it had."""
    for cell, content in zip(function.__closure__ or (), state.pop("closure"), strict=True):
        if content:
            (cell.cell_contents,) = content
    function.__dict__.update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(function, name, value)


def _content(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()  # a variable of the outer function that was never assigned


make_function.__module__ = fill_function.__module__ = make_named_tuple.__module__ = _ALIAS
