"""A wall clock that cannot be jerked.

Leases, silences and deadlines are compared in wall milliseconds, because they outlive this process. When somebody sets
the machine's clock by an hour, a plain wall clock would make every runner look dead, or every deadline look far away.
This clock starts at the wall's time, advances with the boot-time clock (which counts suspension), and follows the wall
only as fast as a twentieth of the time that passes: a silence of 12 s is then off by at most 0.6 s.
"""

from __future__ import annotations

from typing import Final

from clawplane.domain.clock import Clock

_SLEW: Final = 0.05


class SteadyClock:
    """Follow another clock's wall time without ever leaping or stepping back."""

    def __init__(self, source: Clock) -> None:
        self._source = source
        self._ms = float(source.now_ms())
        self._mono = source.monotonic()

    def now_ms(self) -> int:
        """Return milliseconds since 1970, UTC, free of leaps."""
        mono = self._source.monotonic()
        elapsed = max(0.0, (mono - self._mono) * 1000)
        self._mono = max(mono, self._mono)
        wanted = self._source.now_ms() - (self._ms + elapsed)
        allowed = elapsed * _SLEW
        self._ms += elapsed + max(-allowed, min(allowed, wanted))
        return int(self._ms)

    def monotonic(self) -> float:
        """Return the source's monotonic seconds."""
        return self._source.monotonic()
