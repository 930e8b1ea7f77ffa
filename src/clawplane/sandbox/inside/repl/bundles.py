"""Turn any object into a MIME bundle: plain values of bounded size, whatever the object's methods do."""

from __future__ import annotations

import binascii
from typing import Any, Final

from clawplane.sandbox.inside.repl.texts import clipped, exact_text, type_name
from clawplane.sandbox.repl_wire import LARGEST_REPRESENTATION

PLAIN: Final = "text/plain"
LONGEST_PLAIN: Final = 1 << 20
_METHODS: Final = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_pdf_", "application/pdf"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
)
_SIMPLE: Final = frozenset(
    {int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset, type(None), range}
)
_DEEPEST: Final = 100
_LARGEST_INT: Final = 1 << 63
_Bundle = tuple[dict[str, Any], dict[str, Any]]
_b64 = binascii.b2a_base64


def bundle_of(value: object) -> _Bundle:
    """Return the data and metadata of a value; KeyboardInterrupt alone passes."""
    data: dict[str, Any] = {PLAIN: plain(value)}
    metadata: dict[str, Any] = {}
    kind = type(value)
    if kind in _SIMPLE:
        return data, metadata
    _ask_for_bundle(kind, value, data, metadata)
    for name, mime in _METHODS:
        if mime not in data:
            _ask_for_one(kind, value, name, mime, data, metadata)
    return bounded(data), metadata


def plain(value: object) -> str:
    """Return the repr of a value, or a sentence about why there is none."""
    try:
        return clipped(exact_text(repr(value)), LONGEST_PLAIN)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        return f"<{type_name(value)} object; its repr failed with {brief(problem)}>"


def clean_bundle(raw: Any) -> dict[str, Any]:
    """Return the parts of a bundle given by the user that can be sent."""
    data: dict[str, Any] = {}
    for mime, content in dict.items(raw):
        name = exact_text(mime) if isinstance(mime, str) else ""
        cleaned = _clean(name, content)
        if name and cleaned is not None:
            data[name] = cleaned
    return data


def bounded(data: dict[str, Any]) -> dict[str, Any]:
    """Replace representations that are too large by a note in the text."""
    notes = []
    for mime in list(data):
        content = data[mime]
        size = len(content) if type(content) is str else 0
        if mime != PLAIN and size > LARGEST_REPRESENTATION:
            del data[mime]
            largest = f"the largest shown is {LARGEST_REPRESENTATION >> 20} MiB"
            notes.append(f"[{mime} of {size / (1 << 20):.1f} MiB left out: {largest}]")
    data[PLAIN] = "\n".join([clipped(data.get(PLAIN, ""), LONGEST_PLAIN), *notes])
    return data


def as_json(value: Any, depth: int = 0) -> Any:
    """Return a copy of a value made of exact JSON types; what JSON has not becomes null or text."""
    if value is None or value is True or value is False:
        return value
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, str):
        return exact_text(value)
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_LARGEST_INT < number < _LARGEST_INT else plain(number)
    if isinstance(value, float):
        real = float.__float__(value)
        return real if real - real == 0 else None
    if isinstance(value, dict):
        return {_key(name): as_json(each, depth + 1) for name, each in dict.items(value)}
    if isinstance(value, list):
        return [as_json(each, depth + 1) for each in list.__iter__(value)]
    if isinstance(value, tuple):
        return [as_json(each, depth + 1) for each in tuple.__iter__(value)]
    return plain(value)


def brief(problem: BaseException) -> str:
    """Return an exception in one bounded line."""
    try:
        text = exact_text(str(problem))
    except BaseException:
        text = ""
    name = type_name(problem)
    return clipped(f"{name}: {text}" if text else name, 300).replace("\n", " ")


def _ask_for_bundle(kind: type, value: object, data: dict[str, Any], metadata: dict[str, Any]) -> None:
    try:
        method = getattr(kind, "_repr_mimebundle_", None)
        told = None if method is None or kind is type else method(value, include=None, exclude=None)
        if isinstance(told, tuple) and len(told) == 2:
            told, more = told
            if isinstance(more, dict):
                metadata.update(as_json(more))
        if isinstance(told, dict):
            data.update(clean_bundle(told))
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        data[PLAIN] += f"\n[_repr_mimebundle_ failed with {brief(problem)}]"


def _ask_for_one(
    kind: type, value: object, name: str, mime: str, data: dict[str, Any], metadata: dict[str, Any]
) -> None:
    try:
        method = getattr(kind, name, None)
        told = None if method is None or kind is type else method(value)
        if isinstance(told, tuple) and len(told) == 2:
            told, more = told
            if isinstance(more, dict):
                metadata[mime] = as_json(more)
        content = None if told is None else _clean(mime, told)
        if content is not None:
            data[mime] = content
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        data[PLAIN] += f"\n[{name} failed with {brief(problem)}]"


def _clean(mime: str, content: Any) -> Any:
    if mime.endswith("json"):
        return as_json(content)
    if isinstance(content, bytes | bytearray | memoryview):
        if len(content) > LARGEST_REPRESENTATION:  # what is too large is not encoded first
            return "=" * (LARGEST_REPRESENTATION + len(content) // 3)
        return _b64(content, newline=False).decode("ascii")
    if isinstance(content, str):
        return exact_text(content)
    return None


def _key(name: object) -> str:
    return exact_text(name) if isinstance(name, str) else plain(name)
