"""Throw environments away: left-overs of dead builders, the long unused, the too many."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clawplane.builder.file_locks import locked_now
from clawplane.builder.tree import UnusableTree, measure, remove

GRACE_SECONDS = 600.0
"""An environment used this recently may be on its way to a run that has not reported it as in use yet."""

_LOCKS_OUTLIVE = 8
"""A lock is a few kilobytes and lets an environment be built again as it was: it stays this many times `max_age`."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did: names of removed environments, bytes of those kept and of the installers' caches."""

    removed: tuple[str, ...]
    kept_bytes: int
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    used: float
    size: int


def remove_left_overs(building: Path, busy: Path) -> None:
    """Remove what builders that are gone left behind; a directory whose name is locked belongs to a living one."""
    for directory in building.iterdir():
        with locked_now(busy / directory.name.partition(".")[0]) as mine:
            if mine:
                remove(directory)


def collect(root: Path, *, max_age: float, max_bytes: int, in_use: set[str], now: float) -> Collected:
    """Remove by age, then by size; see EnvironmentCache.collect. Times in seconds, `now` as time.time() gives it."""
    entries = sorted(_entries(root / "environments"), key=lambda entry: entry.used)
    total = sum(entry.size for entry in entries)
    removed = []
    for entry in entries:
        age = now - entry.used
        if entry.name in in_use or age < GRACE_SECONDS or (age <= max_age and total <= max_bytes):
            continue
        if _discard(root, entry.name):
            removed.append(entry.name)
            total -= entry.size
    for lock in (root / "locks").iterdir():
        with suppress(FileNotFoundError):
            kept = (root / "environments" / lock.name).exists()
            if not kept and now - lock.stat().st_mtime > max_age * _LOCKS_OUTLIVE:
                lock.unlink()
    return Collected(tuple(removed), total, _bound_caches(root, max_bytes // 2))


def _entries(environments: Path) -> list[_Entry]:
    found = []
    for directory in environments.iterdir():
        with suppress(OSError, UnusableTree):
            found.append(_Entry(directory.name, (directory / "used").stat().st_mtime, measure(directory).size))
    return found


def _discard(root: Path, name: str) -> bool:
    """Move an environment out of sight in one step, then remove it at leisure."""
    busy = root / "busy" / name
    with locked_now(busy) as mine:
        if not mine:
            return False
        trash = root / "work" / "building" / f"{name}.{uuid.uuid4().hex}"
        (root / "environments" / name).rename(trash)
        with suppress(FileNotFoundError):
            os.utime(root / "locks" / name)
        busy.unlink()
    remove(trash)
    return True


def _bound_caches(root: Path, maximum: int) -> int:
    """Empty the installers' caches when they are too large; environments keep their files, which are links."""
    caches = [root / "work" / name for name in ("uv", "npm")]
    size = 0
    with suppress(OSError, UnusableTree):
        size = sum(measure(cache).size for cache in caches if cache.exists())
        if size > maximum:
            with locked_now(root / "busy" / "cache") as mine:
                if mine:
                    for cache in caches:
                        remove(cache)
                    return 0
    return size
