"""Give every process tree a user and group id of its own on the host, and one fixed, powerless id inside."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

INNER_ID: Final = 1000
"""What every guest sees as its own uid and gid."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One guest: `uid` and `gid` outside its user namespace, `inner` inside."""

    uid: int
    gid: int
    inner: int = INNER_ID

    @property
    def owner(self) -> tuple[int, int]:
        """Return uid and gid as one pair."""
        return self.uid, self.gid


class IdentitiesExhaustedError(Exception):
    """Every id of the range is in use."""


class Identities:
    """Lend identities of a range; a returned one is lent again last, so that a late writer meets nobody."""

    def __init__(self, first: int, count: int) -> None:
        if first < 1 or count < 1:
            raise ValueError(f"uid range {first}+{count} must start above 0 and hold at least one id")
        self._free = deque(range(first, first + count))

    def lend(self) -> Identity:
        """Return an identity nobody else holds; raises IdentitiesExhaustedError."""
        if not self._free:
            raise IdentitiesExhaustedError("all sandbox user ids are in use; widen the uid range or run fewer at once")
        number = self._free.popleft()
        return Identity(number, number)

    def take_back(self, identity: Identity) -> None:
        """Accept an identity whose process tree is gone."""
        self._free.append(identity.uid)
