"""The `__main__` of a session, and how processes that multiprocessing spawns get its functions.

A spawned process knows nothing of the cells. multiprocessing asks `__main__` for its file, to import it there. To
multiprocessing alone there is one: the imports, functions, classes and constants of all cells, written when it asks.
Everybody else sees what a REPL has: no `__file__`.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from types import CodeType, ModuleType
from typing import Final

from clawplane.sandbox.inside.repl.cells import children

_MOST_STATEMENTS: Final = 2000
_ASKING: Final = "multiprocessing.spawn"
_ABSENT: Final = "module '__main__' has no attribute '__file__'"
_sys = sys
_IMPORTS: Final = (ast.Import, ast.ImportFrom)
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_Assign, _Name, _ClassDef, _Module = ast.Assign, ast.Name, ast.ClassDef, ast.Module
_SAFE_VALUES: Final = (
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
    ast.UnaryOp,
    ast.BinOp,
    ast.Load,
    ast.unaryop,
    ast.operator,
)


class Definitions:
    """The statements of a namespace that can be run again elsewhere; the last one for a name counts."""

    def __init__(self) -> None:
        self._statements: dict[tuple[str, ...], tuple[ast.stmt, str, int]] = {}
        self._path = ""
        self._owner = 0
        self._written = False

    def learn(self, tree: ast.Module, filename: str, futures: int) -> None:
        """Take what can be run again from a cell."""
        for statement in tree.body:
            names = _defined_names(statement)
            if names:
                self._statements.pop(names, None)
                self._statements[names] = (statement, filename, futures)
                self._written = False
        while len(self._statements) > _MOST_STATEMENTS:
            del self._statements[next(iter(self._statements))]

    def class_code(self, name: str) -> CodeType | None:
        """Return what makes the class `name` when it is run, None when no statement of a cell does."""
        statement, filename, futures = self._statements.get((name,), (None, "", 0))
        if not isinstance(statement, _ClassDef):
            return None
        code: CodeType = compile(_Module([statement], []), filename, "exec", futures, True)
        return code

    def write(self) -> str:
        """Write the statements to a file of this process and return its path; "" when there are none."""
        if not self._statements:
            return ""
        if self._owner != os.getpid() or not os.path.exists(self._path):
            self._path = os.path.join(tempfile.mkdtemp(prefix="cells-"), "cells.py")
            self._owner, self._written = os.getpid(), False
        if not self._written:
            with open(self._path, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(_guarded(statement) for statement, _name, _flags in self._statements.values()))
            self._written = True
        return self._path


class MainModule(ModuleType):
    """A namespace of cells; `__name__` is `__main__` for every context."""

    __slots__ = ("definitions",)

    def __init__(self) -> None:
        super().__init__("__main__")
        self.definitions = Definitions()
        if _sys.version_info < (3, 14):
            self.__annotations__ = {}

    @property
    def __file__(self) -> str:  # type: ignore[override]
        if _sys._getframe(1).f_globals.get("__name__") != _ASKING:
            raise AttributeError(_ABSENT)
        path = self.definitions.write()
        if not path:
            raise AttributeError(_ABSENT)
        return path


def _defined_names(statement: ast.stmt) -> tuple[str, ...]:
    """Return the names a statement binds when it is safe to run once more, else nothing."""
    if isinstance(statement, _IMPORTS):
        return tuple(alias.asname or alias.name for alias in statement.names)
    if isinstance(statement, _DEFINITIONS):
        return (statement.name,)
    if isinstance(statement, _Assign) and _is_constant(statement.value):
        names = tuple(target.id for target in statement.targets if isinstance(target, _Name))
        return names if len(names) == len(statement.targets) else ()
    return ()


def _is_constant(value: ast.AST) -> bool:
    return isinstance(value, _SAFE_VALUES) and all(_is_constant(each) for each in children(value))


def _guarded(statement: ast.stmt) -> str:
    """Return source that a failure of this statement does not end: a decorator may need what is only in the session."""
    if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
        return ""
    lines = ast.unparse(statement).split("\n")
    if any("'''" in line or '"""' in line for line in lines):  # a docstring of several lines must keep its own indent
        return "\n".join(lines) + "\n"
    return "try:\n" + "".join(f"    {line}\n" for line in lines) + "except Exception:\n    pass\n"
