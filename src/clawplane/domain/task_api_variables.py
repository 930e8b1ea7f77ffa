"""How the Task API reads its variables: what is out of bounds is clamped, what cannot be read gives the default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_INTEGER: Final = re.compile(r"\s*([+-]?[0-9]{1,18})")
_ON: Final = frozenset({"1", "true", "yes", "on"})


def clamped(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return the leading digits of a variable within its bounds; the default when there are none."""
    match = _INTEGER.match(environment.get(name, ""))
    return default if match is None else min(max(int(match[1]), low), high)


def first_of(environment: Mapping[str, str], *names: str) -> str:
    """Return the first of several variables that holds something, or nothing."""
    return next(filter(None, (environment.get(name, "") for name in names)), "")


def is_on(environment: Mapping[str, str], name: str, *, unset: bool = False) -> bool:
    """Tell whether a switch is on; `unset` is what an empty or missing one means."""
    text = environment.get(name, "").strip().lower()
    return text in _ON if text else unset
