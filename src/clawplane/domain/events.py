"""What happened, in order."""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the append-only log; `at` in milliseconds, `subject` the run's or version's id."""

    seq: int
    at: int
    kind: str
    subject: str
    data: dict[str, Any] = {}
