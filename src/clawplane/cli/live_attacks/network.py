"""placeholder"""

from __future__ import annotations

from clawplane.cli.live_attacks.items import LiveAttack


def attacks() -> list[LiveAttack]:
    """Return the attacks."""
    return []
