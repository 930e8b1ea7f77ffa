"""Keys and the runners that belong to them, as `flows.access` wants them kept."""

from __future__ import annotations

from typing import Protocol

from clawplane.domain.ids import RunnerId
from clawplane.domain.ports import Keys


class KeyStore(Keys, Protocol):
    """API keys, and which key the id of a runner belongs to."""

    async def claim_runner(self, runner: RunnerId, key_id: str) -> str:
        """Return the id of the key that a runner's id belongs to, which is `key_id` if it had none."""
        ...

    async def give_runner(self, runner: RunnerId, key_id: str) -> None:
        """Let a runner's id belong to this key from now on."""
        ...
