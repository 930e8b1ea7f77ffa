"""Keep secrets that must be given out again, such as a chat's bot token, unreadable at rest."""

from __future__ import annotations

from typing import Protocol


class Sealing(Protocol):
    """Seal and unseal short secrets, and sign what is given out."""

    def seal(self, secret: str) -> bytes:
        """Return what may be stored."""
        ...

    def unseal(self, sealed: bytes) -> str:
        """Return the secret; raises StoreError when it was sealed with another key, or changed."""
        ...

    def sign(self, purpose: str, data: bytes) -> bytes:
        """Return 32 bytes that only this installation can compute, and that hold for one purpose only."""
        ...
