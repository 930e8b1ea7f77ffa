"""What the runner needs from whoever starts process trees: the sandbox, or the unsafe launcher in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from clawplane.sandbox.policy import Policy
from clawplane.sandbox.process import Process


class Isolation(Protocol):
    """Starts process trees under a policy."""

    async def run(self, policy: Policy, argv: Sequence[str]) -> Process:
        """Start a program; what the guest or its policy does wrong is a verdict, not an error."""
        ...

    async def close(self) -> None:
        """End everything."""
        ...
