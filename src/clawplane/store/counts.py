"""Keep the numbers of waiting, offered and leased jobs by capability."""

from __future__ import annotations

from collections import defaultdict

from clawplane.store.database import Transaction


class Counts:
    """Changes to the numbers of waiting, offered and leased jobs by capability."""

    def __init__(self) -> None:
        self._changes: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(self, caps: str, *, ready: int = 0, offered: int = 0, leased: int = 0) -> None:
        """Count so many more (or, negative, fewer)."""
        change = self._changes[caps]
        change[0] += ready
        change[1] += offered
        change[2] += leased

    async def write(self, tx: Transaction) -> None:
        """Change the counters."""
        await tx.many("count_jobs", [(caps, *change) for caps, change in self._changes.items() if any(change)])
