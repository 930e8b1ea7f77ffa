"""Read values as the Task API's own server, a JavaScript program, reads them.

Its clients rely on that: numbers in text, text cut off after its digits, absent and empty being the same. Everything
here is a pure function of a parsed JSON value or a query parameter.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

# what String.prototype.trim removes; str.strip would spare U+FEFF and take \x1c to \x1f
_SPACE: Final = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f"
    "\u3000\ufeff"
)
_LEADING_INT: Final = re.compile(r"([+-]?)([0-9]+)")
_SURE_DIGITS: Final = 18
_NUMBERS_END: Final = 1e21
"""From here on JavaScript writes a number with an exponent, so that only its first digit counts."""
_NUMBERS_BEGIN: Final = 1e-6
_EXACT: Final = 1 << 53
_YES: Final = frozenset({"1", "true", "yes", "on"})


def trim(text: str) -> str:
    """Return text without JavaScript's white space around it."""
    return text.strip(_SPACE)


def text_of(value: Any) -> str:
    """Return a string, trimmed; anything else is empty."""
    return trim(value) if isinstance(value, str) else ""


def optional_text(value: Any) -> str | None:
    """Return a string, trimmed; what is empty or no string is None."""
    return text_of(value) or None


def bounded_int(value: Any, default: int, low: int, high: int) -> int:
    """Return the leading decimal digits of a value's text, within bounds; the default when there are none."""
    number = _leading_int(value)
    return default if number is None else max(low, min(high, number))


def _leading_int(value: Any) -> int | None:
    while isinstance(value, list):  # an array's text begins with its first member's
        value = value[0] if value else ""
    if isinstance(value, bool) or value is None or isinstance(value, dict):
        return None
    if isinstance(value, int | float):
        return _int_of_number(value)
    found = _LEADING_INT.match(value.lstrip(_SPACE))
    if found is None:
        return None
    sign, digits = found.groups()
    digits = digits.lstrip("0")
    number = int(digits or "0") if len(digits) <= _SURE_DIGITS else 10**_SURE_DIGITS
    return -number if sign == "-" else number


def _int_of_number(value: float) -> int | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    size = abs(number)
    if size and not _NUMBERS_BEGIN <= size < _NUMBERS_END:
        found = _LEADING_INT.match(repr(number))
        return None if found is None else int(found[0])
    return int(value) if size < _EXACT else int(number)


def one_of(value: Any, allowed: frozenset[str], fallback: str) -> str:
    """Return a string that is one of these, case counting; else the fallback."""
    text = text_of(value)
    return text if text in allowed else fallback


def truthy(value: Any) -> bool:
    """Tell whether JavaScript takes a value for true: all but false, null, 0, NaN and the empty string."""
    if isinstance(value, list | dict):
        return True
    return bool(value) and value == value  # noqa: PLR0124 - NaN is the one value that is not itself


def said_yes(value: Any) -> bool:
    """Tell whether a switch is on: true, a number but 0, or one of 1, true, yes, on."""
    if isinstance(value, str):
        return text_of(value).lower() in _YES
    return isinstance(value, bool | int | float) and truthy(value)


def told_text(value: Any) -> str:
    """Return what a runner reports as a stream: text as it is, nothing for what is falsy, the JSON of anything else."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":")) if truthy(value) else ""
