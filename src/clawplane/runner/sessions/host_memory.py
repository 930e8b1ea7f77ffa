"""How much memory this host has, or the container that this process sees as its host, and how much of it is free."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")
_GROUP: Final = "sys/fs/cgroup"
_VERSION_2: Final = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_VERSION_1: Final = (
    "memory/memory.limit_in_bytes",
    "memory/memory.usage_in_bytes",
    "memory/memory.stat",
    "total_inactive_file",
)
"""The files of a group's bound, its use and its parts, and which part is page cache that can be had back."""


def memory_size(root: Path = _ROOT) -> int:
    """Return how many bytes there are."""
    sizes = [_of_host(root).get("MemTotal", 0) << 10]
    for bound, *_ in (_VERSION_2, _VERSION_1):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            sizes.append(int((root / _GROUP / bound).read_text()))
    return min(sizes)


def free_share(root: Path = _ROOT) -> float:
    """Return which share is free, from 0 to 1."""
    host = _of_host(root)
    total = host.get("MemTotal", 0)
    shares = [host.get("MemAvailable", total) / total if total else 1.0]
    for names in (_VERSION_2, _VERSION_1):
        share = _of_group(root / _GROUP, *names)
        if share is not None:
            shares.append(share)
    return min(shares)


def _of_host(root: Path) -> dict[str, int]:
    lines = _lines(root / "proc/meminfo", ":")
    return {name: int(rest.split()[0]) for name, _, rest in lines if rest.split()}


def _of_group(group: Path, limit: str, usage: str, stat: str, reclaimable: str) -> float | None:
    """Return the free share of a group's memory, None where it has no bound; its page cache counts as free."""
    try:
        bound, used = int((group / limit).read_text()), int((group / usage).read_text())
        cached = next((int(rest) for name, _, rest in _lines(group / stat, " ") if name == reclaimable), 0)
    except (OSError, ValueError):  # not there, or "max"
        return None
    return max(0.0, 1 - max(used - cached, 0) / bound) if bound else None


def _lines(file: Path, separator: str) -> list[tuple[str, str, str]]:
    return [line.partition(separator) for line in file.read_text().splitlines()]
