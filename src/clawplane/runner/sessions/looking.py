"""Tell code that only looks from code that may change something, without running it.

What only looks needs no copy of the interpreter before it of its own: going back to before it and to before the next
exec is the same. The judgement errs towards change: calls but a few, assignments, statements, long code.
"""

from __future__ import annotations

import ast
from typing import Final

_LONGEST: Final = 200
_HARMLESS: Final = frozenset({"len", "print", "repr", "str", "type"})
_LOOKING: Final = (
    ast.Module,
    ast.Expr,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.Attribute,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Tuple,
    ast.List,
    ast.Dict,
    ast.JoinedStr,
    ast.FormattedValue,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)


def only_looks(code: str) -> bool:
    """Tell whether this Python code binds nothing and calls nothing that could."""
    if len(code) > _LONGEST:
        return False
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # what does not compile changes nothing, but neither is it worth knowing
    return all(isinstance(node, _LOOKING) or _harmless(node) for node in ast.walk(tree))


def _harmless(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _HARMLESS
