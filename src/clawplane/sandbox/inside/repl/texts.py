"""Get plain text out of objects that may lie: exact types, bounded lengths."""

from __future__ import annotations

_str_of = str.__str__
_name_of = type.__dict__["__name__"].__get__


def exact_text(text: str) -> str:
    """Return a real str of what may be an instance of a subclass with a mind of its own."""
    return text if type(text) is str else _str_of(text)


def clipped(text: str, longest: int) -> str:
    """Return `text`, its middle left out when it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest // 3
    return f"{text[:head]} ... {len(text) - head - tail} characters left out ... {text[-tail:]}"


def type_name(value: object) -> str:
    """Return the name of the real type of a value."""
    name: str = _name_of(type(value))
    return name
