"""What an attack on a whole plane is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from clawplane.cli.live_attacks.plane import PrivatePlane


class NotTried(Exception):
    """This host cannot even be asked; the text says why."""


class Broken(Exception):
    """The attack got what it wanted, or something else than `expected` happened; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAttack:
    """One attack; `attempt` raises Broken or NotTried, and returns when everything held."""

    number: int
    title: str
    expected: str
    attempt: Callable[[PrivatePlane], Awaitable[None]]
    critical: bool = True


def must(condition: object, happened: str) -> None:
    """Raise Broken with what happened, unless a condition holds."""
    if not condition:
        raise Broken(happened[:300])
