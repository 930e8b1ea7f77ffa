"""Compile a cell: statements to run, an expression to show, and whether it needs the event loop.

What a cell means is decided here, before anything runs; nothing is ever tried and run again.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Final

_MENTIONS_LOOP: Final = re.compile(r"\b(?:create_task|ensure_future|get_running_loop|current_task)\b")
_LOOP_CALLS: Final = frozenset({"create_task", "ensure_future", "get_running_loop", "current_task"})
_AWAIT: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_ONLY_AST: Final = ast.PyCF_ONLY_AST
_COROUTINE: Final = inspect.CO_COROUTINE
_NESTED: Final = 0x10  # the flag of a feature that became the rule long ago, and means something else today
_FUTURES: Final = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names} - {_NESTED})
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_compile = compile
_Module, _Expr, _Expression, _Call, _Attribute = ast.Module, ast.Expr, ast.Expression, ast.Call, ast.Attribute
_AST: Final = ast.AST
_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class Cell:
    """A compiled cell; `last` is the expression whose value is shown. `futures` carry over to the next cell."""

    body: CodeType | None
    last: CodeType | None
    silent: bool
    in_loop: bool
    futures: int
    tree: ast.Module


def compile_cell(source: str, filename: str, futures: int) -> Cell:
    """Compile `source`; raises what `compile` raises, SyntaxError above all."""
    flags = _AWAIT | futures
    tree = _compile(source, filename, "exec", flags | _ONLY_AST, True)
    statements = tree.body
    last: CodeType | None = None
    body: CodeType | None = None
    silent = False
    kept = tree
    if statements and isinstance(statements[-1], _Expr):
        expression = statements[-1]
        silent = ";" in source and _ends_with_semicolon(source, expression)
        kept = _Module(statements[:-1], tree.type_ignores)
    if kept.body:
        body = _compile(kept, filename, "exec", flags, True)
        futures |= body.co_flags & _FUTURES
    if kept is not tree:
        last = _compile(_Expression(expression.value), filename, "eval", _AWAIT | futures, True)
    in_loop = any(code is not None and code.co_flags & _COROUTINE for code in (body, last)) or (
        _MENTIONS_LOOP.search(source) is not None and any(_loop_calls(tree))
    )
    return Cell(body, last, silent, in_loop, futures, tree)


def is_coroutine(code: CodeType) -> bool:
    """Tell whether evaluating `code` gives a coroutine to await."""
    return bool(code.co_flags & _COROUTINE)


def _ends_with_semicolon(source: str, expression: ast.Expr) -> bool:
    line = (expression.end_lineno or 1) - 1
    tail = _LINE_END.split(source)[line].encode()[expression.end_col_offset or 0 :].decode(errors="replace")
    return tail.lstrip().startswith(";")


def _loop_calls(tree: ast.AST) -> Iterator[bool]:
    """Yield True for every call, outside of functions and classes, that works in a running loop only."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Call):
            called = node.func
            name = called.attr if isinstance(called, _Attribute) else getattr(called, "id", "")
            if name in _LOOP_CALLS:
                yield True
        if not isinstance(node, _SCOPES):
            waiting.extend(children(node))


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the direct children of a node."""
    for name in node._fields:
        content = getattr(node, name, None)
        for each in content if isinstance(content, list) else (content,):
            if isinstance(each, _AST):
                yield each
