"""Read single values from environment variables; what does not fit is refused by the variable's name."""

from __future__ import annotations

from collections.abc import Mapping

from clawplane.domain.errors import InvalidArgument


def whole_number(environment: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    """Return the integer in variable `name`; raises InvalidArgument that names it when it is none or out of range."""
    text = environment.get(name)
    if text is None or not text.strip():
        return default
    try:
        value = int(text)
    except ValueError:
        raise InvalidArgument(f"{name} is not a whole number: {text!r}", hint=f"Set it to {low} .. {high}.") from None
    if not low <= value <= high:
        raise InvalidArgument(f"{name} is out of range: {value}", hint=f"Set it to {low} .. {high}.")
    return value


def entries(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the entries of a list written with commas, spaces or both."""
    return tuple(environment.get(name, "").replace(",", " ").split())
