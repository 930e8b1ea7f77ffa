"""Parse JSON that strangers wrote.

The standard parser recurses per level of nesting, so a megabyte of `[` ends in RecursionError somewhere far from the
culprit. Depth is therefore counted first, by a linear scan that skips strings; only text within the limit is parsed.
The standard library's parser is used because integers of any size must survive; what JSON cannot say again (NaN,
Infinity, 1e999) is refused here rather than when it is written.
"""

from __future__ import annotations

import json
import math
import re

MAX_DEPTH = 100
"""Levels of nesting that schemas, inputs and rows may have; what people write has fewer than ten."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_OPENING = (b"[", b"{")


class JsonError(ValueError):
    """Text that is no acceptable JSON; `reason` is a plain phrase, `line` counts from 1 where it is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"{reason} (line {line})")
        self.reason = reason
        self.line = line


def exceeds_depth(data: bytes, limit: int = MAX_DEPTH) -> bool:
    """Tell whether `data` nests arrays and objects deeper than `limit`; linear in time, never recursive."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub(b"", data)):
        depth += 1 if match[0] in _OPENING else -1
        if depth > limit:
            return True
    return False


def parse(data: bytes | str, *, max_bytes: int | None = None, max_depth: int = MAX_DEPTH) -> object:
    """Return the value of JSON text; a byte order mark is tolerated. Raises JsonError and nothing else."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if max_bytes is not None and len(raw) > max_bytes:
        raise JsonError(f"it is {len(raw)} bytes long, the limit is {max_bytes}")
    if exceeds_depth(raw, max_depth):
        raise JsonError(f"it nests deeper than {max_depth} levels")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 (byte {error.start})", raw.count(b"\n", 0, error.start) + 1) from None
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except JsonError:
        raise
    except json.JSONDecodeError as error:
        raise JsonError(error.msg[:1].lower() + error.msg[1:], error.lineno) from None
    except ValueError:  # int() refuses thousands of digits
        raise JsonError("it holds a number with too many digits") from None
    except RecursionError:  # the depth limit prevents it, unless the caller's own stack is nearly used up
        raise JsonError("it nests too deep") from None


def _refuse_constant(name: str) -> object:
    raise JsonError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise JsonError(f"the number {text[:40]} is out of range")
    return value


def not_finite(value: object) -> str | None:
    """Return what JSON cannot say in a value that was parsed patiently: where, and the number; None when it can.

    Such as "timeout: NaN is no number of JSON." Never recursive.
    """
    pending: list[tuple[str, object]] = [("", value)]
    while pending:
        where, item = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            name = "NaN" if math.isnan(item) else "a number beyond all bounds (Infinity, 1e999)"
            return f"{where or 'the body'}: {name} is no number of JSON."
        if isinstance(item, dict):
            pending += [
                (f"{where}.{key}" if where else str(key)[:60], each) for key, each in reversed(list(item.items()))
            ]
        elif isinstance(item, list):
            pending += [(f"{where}[{number}]", each) for number, each in reversed(list(enumerate(item)))]
    return None


def patiently(data: bytes) -> object:
    """Return the value of text that may hold NaN, Infinity and half surrogate pairs; raises JsonError.

    The caller has bounded its depth.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise JsonError(str(error)) from None


def line_of(text: str, needle: str, start: int = 0) -> int | None:
    """Return the line (from 1) of the first `needle` at or after `start`, None when it is absent."""
    at = text.find(needle, start)
    return None if at < 0 else text.count("\n", 0, at) + 1


def value_exceeds_depth(value: object, limit: int = MAX_DEPTH) -> bool:
    """Tell whether a parsed value nests deeper than `limit`; never recursive."""
    level = [value]
    for _ in range(limit + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return False
        level = below
    return any(isinstance(item, (dict, list)) for item in level)
