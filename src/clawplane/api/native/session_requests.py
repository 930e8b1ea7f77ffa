"""Read the bodies of sessions and tools, field by field, so that a wrong one is refused by its name.

A body is read more patiently than JSON allows (NaN, half surrogate pairs): what is wrong with it is then said of the
field that holds it. A field that nobody knows is refused, because it is a misspelt one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from clawplane.api.calls import MAX_JSON_DEPTH, Call
from clawplane.domain import session_rules as rules
from clawplane.domain.errors import InvalidSchema
from clawplane.domain.json_text import exceeds_depth
from clawplane.domain.sessions import DEFAULT_TIMEOUT, EgressRules, SessionOptions

_TOOLS: Final = ("python", "shell", "node")
_PROFILES: Final = ("bare", "data", "full")
_YEAR: Final = 366 * 86_400
_MAX_ID: Final = 64


async def fields_of(call: Call, known: tuple[str, ...]) -> dict[str, Any]:
    """Return the body's members; an empty body has none. Raises InvalidSchema."""
    data = await call.request.body()
    body = _parsed(data) if data.strip() else {}
    if not isinstance(body, dict):
        raise InvalidSchema("The request body is no JSON object.", hint='Send an object, such as {"code": "1 + 1"}.')
    for name in body:
        if name not in known:
            shown = name[:60].encode("utf-8", "replace").decode()
            raise InvalidSchema(f"{shown}: there is no such field.", hint=f"The fields are: {', '.join(known)}.")
    return body


def _parsed(data: bytes) -> Any:
    if exceeds_depth(data, MAX_JSON_DEPTH):
        raise InvalidSchema(f"The request body nests deeper than {MAX_JSON_DEPTH} levels.", hint="Flatten it.")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidSchema(f"The request body is no JSON: {reason}", hint="Send a JSON object.") from None


def session_id_of(fields: Mapping[str, Any]) -> str | None:
    """Return the session a tool is to work in; None for a new one."""
    value = fields.get("session_id")
    if value is None:
        return None
    text = rules.check_text(value, "session_id", most=_MAX_ID)
    if not text:
        raise InvalidSchema("session_id: it is empty.", hint="Leave it out to get a new session.")
    return text


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """Return a yes-or-no field, no by default."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise InvalidSchema(f"{name}: it is neither true nor false.", hint="Use true or false.")
    return value


def number(fields: Mapping[str, Any], name: str, default: int, *, low: int, high: int) -> int:
    """Return an integer field."""
    return int(rules.check_number(fields.get(name, default), name, low=low, high=high))


def text(fields: Mapping[str, Any], name: str, *, most: int | None = rules.MAX_CODE, needed: bool = False) -> str:
    """Return a text field, "" when it is absent and not `needed`."""
    if needed and fields.get(name) is None:
        raise InvalidSchema(f"{name}: it is missing.", hint=f"Send `{name}` as a string.")
    return rules.check_text(fields.get(name, ""), name, most=most)


def path(fields: Mapping[str, Any], name: str = "path", *, empty: bool = False) -> str:
    """Return a path within the workspace."""
    if name not in fields and not empty:
        raise InvalidSchema(f"{name}: it is missing.", hint="Name a file relative to the workspace.")
    return rules.check_path(fields.get(name, ""), name, empty=empty)


def choice(fields: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    """Return one of a few words."""
    value = fields.get(name, default)
    if value not in choices:
        raise InvalidSchema(f"{name}: it is none of {', '.join(choices)}.", hint=f"Use one of {', '.join(choices)}.")
    return str(value)


def exec_fields(fields: Mapping[str, Any], code: str = "code") -> dict[str, Any]:
    """Return what ExecRequest takes beside id and tool; `code` is the name of the field that holds the code."""
    return {
        "code": rules.check_code(fields.get(code), code),
        "timeout": rules.check_timeout(fields["timeout"]) if "timeout" in fields else DEFAULT_TIMEOUT,
        "context": rules.check_context(fields.get("context", "")),
        "environment": rules.check_environment(fields.get("environment", {})),
        "directory": path(fields, "directory", empty=True),
        "stdin": text(fields, "stdin", most=rules.MAX_STDIN),
        "detached": flag(fields, "detached"),
        "raw": flag(fields, "raw"),
    }


def tool_of(fields: Mapping[str, Any]) -> Any:
    """Return which tool executes; `language` is another word for it."""
    return choice(fields, "language" if "language" in fields else "tool", _TOOLS, "python")


def options_of(fields: Mapping[str, Any]) -> SessionOptions:
    """Return the options of a new session."""
    checks: dict[str, Callable[[Any], Any]] = {
        "name": rules.check_name,
        "workspace": lambda value: None if value is None else rules.check_workspace(value),
        "memory": _whole("memory", 64, 1 << 20),
        "cpus": lambda value: float(rules.check_number(value, "cpus", low=0.05, high=256, whole=False)),
        "processes": _whole("processes", 8, 100_000),
        "disk": _whole("disk", 16, 1 << 24),
        "sleep_after": _whole("sleep_after", 0, _YEAR),
        "save_after": _whole("save_after", 0, _YEAR),
        "expires_after": _whole("expires_after", 0, _YEAR),
        "undo": _whole("undo", 0, 100),
        "egress": egress_of,
        "environment": rules.check_environment,
        "metadata": rules.check_metadata,
        "profile": lambda value: choice({"profile": value}, "profile", _PROFILES, ""),
    }
    return SessionOptions(**{name: check(fields[name]) for name, check in checks.items() if name in fields})


def egress_of(value: Any) -> EgressRules:
    """Return where a session may connect to."""
    try:
        rules_ = msgspec.convert(value, EgressRules)
    except msgspec.ValidationError as error:
        raise InvalidSchema(
            f"egress: {error}", hint='Send {"mode": "public" | "listed" | "none", "allow": [...], "deny": [...]}.'
        ) from None
    for entry in (*rules_.allow, *rules_.deny):
        rules.check_text(entry, "egress", most=300)
    return rules_


def _whole(name: str, low: int, high: int) -> Callable[[Any], int]:
    return lambda value: int(rules.check_number(value, name, low=low, high=high))


OPTIONS: Final = tuple(SessionOptions.__struct_fields__)
EXEC: Final = ("timeout", "context", "environment", "directory", "stdin", "detached", "raw")
