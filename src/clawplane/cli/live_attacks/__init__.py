"""Attack a whole plane of this host's own from inside its sessions and from its edge: `attack_plane`.

What `clawplane.sandbox.selftest` tries in bare sandboxes is the half of the list that needs nothing else. Here a plane
is started in a directory of its own, as `clawplane up` does, and the other half is tried on it.
"""

from __future__ import annotations

from clawplane.cli.live_attacks.running import attack_plane

__all__ = ["attack_plane"]
