"""Read NAME=VALUE from options."""

from __future__ import annotations

from collections.abc import Iterable

from clawplane.domain.errors import InvalidArgument


def pairs_of(option: str, given: Iterable[str] | None) -> dict[str, str]:
    """Return what a repeated option names; raises InvalidArgument for what is not NAME=VALUE."""
    pairs = {}
    for each in given or ():
        name, separator, value = each.partition("=")
        if not separator or not name:
            raise InvalidArgument(f"{option} {each!r} is not NAME=VALUE.", hint=f"Write it as {option} zone=a.")
        pairs[name] = value
    return pairs
