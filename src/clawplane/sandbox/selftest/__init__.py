"""Attack this host's own sandbox: `attack` tries the list and returns a `Report` of what happened."""

from __future__ import annotations

from clawplane.sandbox.selftest.report import Report, Result
from clawplane.sandbox.selftest.running import attack, attacks
from clawplane.sandbox.selftest.scratch import scratch

__all__ = ["Report", "Result", "attack", "attacks", "scratch"]
