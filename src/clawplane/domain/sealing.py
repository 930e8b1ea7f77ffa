"""Keep secrets that must be given out again, such as a chat's bot token, unreadable at rest."""

from __future__ import annotations

from typing import Protocol


class Sealing(Protocol):
    """Seal and unseal short secrets."""

    def seal(self, secret: str) -> bytes:
        """Return what may be stored."""
        ...

    def unseal(self, sealed: bytes) -> str:
        """Return the secret; raises StoreError when it was sealed with another key, or changed."""
        ...
