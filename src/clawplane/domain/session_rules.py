"""What a session may be asked: every value that a caller sends is judged here, by name and with the way out.

Values arrive as JSON left them, so `check_*` take anything and return what the rest of the program may rely on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from clawplane.domain.errors import InvalidSchema, TooLarge
from clawplane.domain.ids import RunnerId
from clawplane.domain.sessions import DEFAULT_TIMEOUT, MAX_TIMEOUT

CLOSED: Final = "closed"
"""An outcome's reason: the session was deleted, and nothing is kept of it."""
EXPIRED: Final = "expired"
"""... it was idle for too long, and nothing is kept of it."""
SAVED: Final = "saved"
"""... its variables and files are on the runner's disk; it sleeps."""
LOST: Final = "lost"
"""... its memory is lost, its files are on the runner's disk; it sleeps."""

NEVER_MS: Final = 315_360_000_000
"""Ten years: the time limit of a session's job, which ends by other rules."""

MAX_CODE: Final = 4 << 20
MAX_STDIN: Final = 4 << 20
MAX_PATH: Final = 4096
_MAX_ENVIRONMENT: Final = 64 << 10
_MAX_VARIABLES: Final = 256
_MAX_METADATA: Final = 16 << 10
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_CONTEXT: Final = re.compile(r"[A-Za-z0-9_.-]{0,64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.@/-]{0,99}")
_WORKSPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def caps_of(runner: RunnerId | None) -> str:
    """Return the capability that a session's job asks for: any runner with sessions, or the one that has its files."""
    return "sessions" if runner is None else f"sessions@{runner}"


def check_timeout(value: Any) -> float:
    """Return a time limit in seconds; 0 < t <= 120."""
    way_out = f"Use a number of seconds above 0 and up to {MAX_TIMEOUT:g}; without it the limit is {DEFAULT_TIMEOUT:g}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidSchema(f"timeout: {_shown(value)} is no number.", hint=way_out)
    if not math.isfinite(value) or not 0 < value <= MAX_TIMEOUT:
        raise InvalidSchema(f"timeout: {_shown(value)} is out of range.", hint=way_out)
    return float(value)


def check_code(value: Any, field: str) -> str:
    """Return what is to be executed."""
    if value is None:
        raise InvalidSchema(f"{field}: it is missing.", hint=f"Send `{field}` as a string.")
    text = check_text(value, field, most=MAX_CODE)
    if "\0" in text:
        raise InvalidSchema(
            f"{field}: it holds a NUL character at position {text.index(chr(0))}.", hint="Write it as an escape: \\0."
        )
    return text


def check_text(value: Any, field: str, *, most: int | None) -> str:
    """Return a string that UTF-8 can hold, of at most `most` bytes; None bounds it by its request alone."""
    if not isinstance(value, str):
        raise InvalidSchema(f"{field}: {_shown(value)} is no string.", hint=f"Send `{field}` as a string.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidSchema(
            f"{field}: it holds a lone surrogate at position {error.start}.", hint="Send valid Unicode."
        ) from None
    if most is not None and size > most:
        raise TooLarge(f"{field}: {size} bytes are more than {most}.", hint="Put it in a file of the workspace.")
    return value


def check_path(value: Any, field: str = "path", *, empty: bool = False) -> str:
    """Return a path that can be one inside a workspace; where it leads is for the runner to see."""
    text = check_text(value, field, most=MAX_PATH)
    if "\0" in text:
        raise InvalidSchema(f"{field}: it holds a NUL character.", hint="Remove it.")
    if not text and not empty:
        raise InvalidSchema(f"{field}: it is empty.", hint="Name a file relative to the workspace, such as data/a.csv.")
    return text


def check_context(value: Any) -> str:
    """Return the name of a namespace; "" is the session's own."""
    text = check_text(value, "context", most=64)
    if not _CONTEXT.fullmatch(text):
        raise InvalidSchema("context: it is no name.", hint="Use up to 64 letters, digits, `_`, `.` and `-`.")
    return text


def check_environment(value: Any, field: str = "environment") -> dict[str, str]:
    """Return environment variables."""
    variables = _strings(value, field, most=_MAX_ENVIRONMENT)
    for name, text in variables.items():
        if not _VARIABLE.fullmatch(name):
            raise InvalidSchema(f"{field}: {_shown(name)} is no variable's name.", hint="Use letters, digits and `_`.")
        if "\0" in text:
            raise InvalidSchema(f"{field}.{name}: it holds a NUL character.", hint="Remove it.")
    return variables


def check_metadata(value: Any) -> dict[str, str]:
    """Return a caller's own notes."""
    return _strings(value, "metadata", most=_MAX_METADATA)


def check_name(value: Any) -> str:
    """Return a session's name; "" for none."""
    text = check_text(value, "name", most=100)
    if text and not _NAME.fullmatch(text):
        raise InvalidSchema(
            "name: it is no name of a session.", hint="Use up to 100 letters, digits, spaces and `_.@/-`."
        )
    return text


def check_workspace(value: Any) -> str:
    """Return a workspace's name."""
    text = check_text(value, "workspace", most=64)
    if not _WORKSPACE.fullmatch(text):
        raise InvalidSchema(
            "workspace: it is no name of a workspace.",
            hint="Use 1 to 64 letters, digits, `_`, `.` and `-`, a letter or digit first.",
        )
    return text


def check_number(value: Any, field: str, *, low: float, high: float, whole: bool = True) -> float:
    """Return a number within a range."""
    wanted = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise InvalidSchema(f"{field}: {_shown(value)} is no {'integer' if whole else 'number'}.")
    if not low <= value <= high:  # NaN is within no range
        raise InvalidSchema(f"{field}: {_shown(value)} is out of range.", hint=f"Use {low:g} to {high:g}.")
    return value


def _strings(value: Any, field: str, *, most: int) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidSchema(f"{field}: {_shown(value)} is no object.", hint="Send an object of strings.")
    if len(value) > _MAX_VARIABLES:
        raise InvalidSchema(f"{field}: it has more than {_MAX_VARIABLES} entries.", hint="Send fewer.")
    checked: dict[str, str] = {}
    size = 0
    for name, text in value.items():
        key = check_text(name, field, most=255)
        checked[key] = check_text(text, f"{field}.{key}", most=most)
        size += len(key) + len(checked[key])
    if size > most:
        raise TooLarge(f"{field}: it is larger than {most} bytes.", hint="Put it in a file of the workspace.")
    return checked


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
