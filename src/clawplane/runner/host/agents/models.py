"""Which models to try, and when the next one is due."""

from __future__ import annotations

from typing import Final

_NO_FLAG: Final = frozenset({"default", "auto", "none"})
_REFUSALS: Final = ("not supported", "invalid_parameter", "unknown model", "invalid model")


def candidates(asked: str | None, configured: str = "") -> list[str | None]:
    """Return models in the order to try them: what the task asks for, else what is configured; None: no model flag.

    Both are comma lists; `default`, `auto` and `none` stand for the CLI's own choice. A name that looks like a flag is
    left out, for it becomes an argument.
    """
    names = [each.strip() for each in (asked or configured).split(",")]
    tried: list[str | None] = []
    for name in names:
        model = None if name.lower() in _NO_FLAG else name
        if name and not name.startswith("-") and model not in tried:
            tried.append(model)
    return tried or [None]


def refused(*texts: str) -> bool:
    """Tell whether what a failed run said means that its model was the trouble."""
    said = "\n".join(texts).lower()
    return "model" in said and any(each in said for each in _REFUSALS)
