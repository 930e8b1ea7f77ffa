"""Give memory back while the host is short of it.

What was made ahead goes first, for it holds nothing of anybody; then sessions that sleep go to disk, the one that was
used longest ago first. They come back with their variables when they are asked something, as after a long sleep. What
runs is never touched: its own limits hold, and the kernel's. One at a time, and the memory is looked at again after
each, so that no more goes than must.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from clawplane.runner.sessions.live import Live

ENOUGH: Final = 0.1
"""The share of the memory that shall be free."""
_LOOK_SECONDS: Final = 5.0
_VERSION_2: Final = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_VERSION_1: Final = (
    "memory/memory.limit_in_bytes",
    "memory/memory.usage_in_bytes",
    "memory/memory.stat",
    "total_inactive_file",
)

_log = logging.getLogger(__name__)


class Shortage:
    """Watches the memory of this host."""

    def __init__(
        self,
        lives: Callable[[], Iterable[Live]],
        sheds: Iterable[Callable[[], Awaitable[bool]]],
        free: Callable[[], float],
    ) -> None:
        """`sheds` throw something away that was made ahead, and say whether there was any; `free` is a share of 1."""
        self._lives = lives
        self._sheds = tuple(sheds)
        self._free = free

    async def run(self) -> None:
        """Look now and then."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.relieve()

    async def relieve(self) -> None:
        """Give memory back until enough of it is free, or nothing is left that could go."""
        stayed: set[Live] = set()
        while self._free() < ENOUGH:
            if any([await shed() for shed in self._sheds]):
                continue
            asleep = [live for live in self._lives() if live.sleeps and live.reason is None and live not in stayed]
            if not asleep:
                return
            oldest = min(asleep, key=lambda live: live.used)
            _log.info("The session %s goes to disk: the host is short of memory", oldest.spec.session)
            if not await oldest.retire("the host is short of memory"):
                stayed.add(oldest)


def free_share(root: Path = Path("/")) -> float:
    """Return which share of the memory is free, of this host or of the container that this process sees as its host."""
    shares = [_of_host(root / "proc/meminfo")]
    for names in (_VERSION_2, _VERSION_1):
        share = _of_group(root / "sys/fs/cgroup", *names)
        if share is not None:
            shares.append(share)
    return min(shares)


def _of_host(meminfo: Path) -> float:
    values = {name: int(rest.split()[0]) for name, _, rest in _lines(meminfo.read_text(), ":") if rest.split()}
    total = values.get("MemTotal", 0)
    return values.get("MemAvailable", total) / total if total else 1.0


def _of_group(group: Path, limit: str, usage: str, stat: str, reclaimable: str) -> float | None:
    """Return the free share of a group's memory, None where it has no bound; its page cache counts as free."""
    try:
        bound, used = int((group / limit).read_text()), int((group / usage).read_text())
        cached = next(
            (int(rest) for name, _, rest in _lines((group / stat).read_text(), " ") if name == reclaimable), 0
        )
    except (OSError, ValueError):  # not there, or "max"
        return None
    return max(0.0, 1 - max(used - cached, 0) / bound) if bound else None


def _lines(text: str, separator: str) -> list[tuple[str, str, str]]:
    return [line.partition(separator) for line in text.splitlines()]
