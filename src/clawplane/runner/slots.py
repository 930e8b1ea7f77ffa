"""Count how many jobs of each capability may still be taken."""

from __future__ import annotations

from collections.abc import Mapping

from clawplane.domain.ids import RunnerId
from clawplane.domain.leases import JobKind

CAPABILITY: Mapping[JobKind, str] = {
    JobKind.SUBTASK: "workers",
    JobKind.BUILD: "builds",
    JobKind.SESSION: "sessions",
    JobKind.HOST: "host",
}
"""The capability a runner needs for each kind of job."""


def bound(capability: str, runner: RunnerId) -> str:
    """Return the capability of one runner alone, for work that needs what is on its disk."""
    return f"{capability}@{runner}"


class Slots:
    """Free slots by capability; a capability with `@` draws from the one that it is a part of."""

    def __init__(self, total: Mapping[str, int]) -> None:
        self._total = dict(total)
        self._taken = dict.fromkeys(total, 0)
        self.unable: dict[str, str] = {}
        """Why capabilities are not offered now; they have no free slot."""

    @property
    def free(self) -> dict[str, int]:
        """Return how many are free, by capability."""
        return {
            capability: 0 if _pool(capability) in self.unable else total - self._taken[_pool(capability)]
            for capability, total in self._total.items()
        }

    def take(self, kind: JobKind) -> bool:
        """Take a slot for a job; False when none is free."""
        capability = CAPABILITY[kind]
        if capability in self.unable or self._taken.get(capability, 0) >= self._total.get(capability, 0):
            return False
        self._taken[capability] += 1
        return True

    def give(self, kind: JobKind) -> None:
        """Give a slot back."""
        self._taken[CAPABILITY[kind]] -= 1


def _pool(capability: str) -> str:
    return capability.partition("@")[0]
