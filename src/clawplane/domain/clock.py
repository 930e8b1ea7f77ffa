"""Tell the time through a value that tests can replace."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never step back and go on while the machine sleeps."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return seconds of the boot-time clock, which goes on while the machine is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that moves only when told."""

    def __init__(self, now_ms: int = 1_780_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Return the set time."""
        return self._now_ms

    def monotonic(self) -> float:
        """Return the set time in seconds."""
        return self._now_ms / 1000

    def advance(self, seconds: float) -> None:
        """Move forward (or, negative, step back) by `seconds`."""
        self._now_ms += round(seconds * 1000)
