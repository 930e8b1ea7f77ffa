"""Bound how fast one caller may ask; off by default, and never applied to a poll with a valid token."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from clawplane.domain.clock import Clock

_CALLERS: Final = 4096


class RateLimit:
    """A bucket of tokens per caller: `burst` at once, then `per_second`. A rate of 0 admits everything."""

    def __init__(self, clock: Clock, *, per_second: float = 0.0, burst: int = 100) -> None:
        self._clock = clock
        self._rate = per_second
        self._burst = float(max(1, burst))
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str) -> float:
        """Return 0 when this request may pass, else in how many seconds the next one may."""
        if self._rate <= 0:
            return 0.0
        now = self._clock.monotonic()
        tokens, since = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        passes = tokens >= 1
        self._buckets[caller] = (tokens - 1 if passes else tokens, now)
        while len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1 - tokens) / self._rate
