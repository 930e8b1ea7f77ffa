"""How a life of a session ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clawplane.domain.errors import ClawplaneError, StaleLease
from clawplane.domain.runner_asks import REFUSED

Reason = Literal["closed", "expired", "saved", "lost"]


@dataclass(frozen=True, slots=True)
class End:
    """Why a life of a session ended, and what it used."""

    reason: Reason
    message: str = ""
    wall_ms: int = 0
    cpu_ms: int = 0
    peak_memory: int = 0


def ending() -> ClawplaneError:
    """Return the error of what was not begun, because this life of the session is over; it may be asked again."""
    return StaleLease("This life of the session has ended.", hint="Ask again: it wakes if it can.", details=(REFUSED,))
