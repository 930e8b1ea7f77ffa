"""How much of a question's stream may be under way: the numbers that both ends count with.

A frame costs one credit for each CHUNK bytes it carries, a large one never more than half a window, so that whoever
waits for credit gets some as soon as half of the window was taken.
"""

from __future__ import annotations

from typing import Final

from clawplane.link.frames import CHUNK, WINDOW

MAX_COST: Final = WINDOW // 2
MAX_TOLD: Final = 8 << 20
"""Bytes of one streamed event at the most: a rich result is said in one piece."""

MAX_ANSWER: Final = 32 << 20
MAX_QUESTION: Final = 16 << 20


def cost_of(body: bytes) -> int:
    """Return how many credits a frame with this body takes."""
    return min(MAX_COST, max(1, -(-len(body) // CHUNK)))


class Taken:
    """Counts what was taken and not yet reported; reports come in halves of a window."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, cost: int) -> int:
        """Count `cost` more and return how much to report now, 0 for nothing yet."""
        self._count += cost
        if self._count < MAX_COST:
            return 0
        count, self._count = self._count, 0
        return count
