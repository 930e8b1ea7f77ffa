"""What an attack on a whole plane is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from clawplane.cli.live_attacks.plane import LiveSession, PrivatePlane, said

Attempt = Callable[[PrivatePlane], Awaitable[None]]
_CLEAN: Final = ["ok", None, "", "", [{"text/plain": "2", "_main": True}]]


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
    attempt: Attempt


def listed(rows: Iterable[tuple[int, str, str, Attempt]]) -> list[LiveAttack]:
    """Return attacks from their numbers, titles, expectations and attempts."""
    return [
        LiveAttack(number=number, title=title, expected=expected, attempt=attempt)
        for number, title, expected, attempt in rows
    ]


def must(condition: object, happened: str) -> None:
    """Raise Broken with what happened, unless a condition holds."""
    if not condition:
        raise Broken(happened[:300])


async def right(live: LiveSession, after: str) -> None:
    """Raise Broken unless the next exec of a session gives what it should."""
    result = await live.python("1+1")
    found = [result.get(name, "nothing") for name in ("status", "error", "stdout", "stderr", "results")]
    must(found == _CLEAN, f"after {after} the next exec is not right: {said(result)}")
