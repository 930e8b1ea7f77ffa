"""Read and write control files, and claim the runner's own place in one hierarchy.

A runner works below a base directory `clawplane-<pid>` and holds a lock (flock) on it for as long as it lives, so that
a later runner can tell a base whose owner died from one that is in use, whatever pid namespace the owner is in.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

BASE_PREFIX: Final = "clawplane-"
_BASE: Final = re.compile(rf"{BASE_PREFIX}\d+(?:\.\d+)?")
_NAMES_TO_TRY: Final = 64
_BLOCK: Final = 1 << 16
_FILES: Final = ("/cgroup.procs", "/tasks")


@dataclass(frozen=True, slots=True)
class Directories:
    """How group directories come and go; the kernel fills and empties them by itself."""

    make: Callable[[str], None] = os.mkdir
    remove: Callable[[str], None] = os.rmdir


@dataclass(frozen=True, slots=True)
class Base:
    """A claimed base directory and the descriptor that holds its lock."""

    path: str
    lock: int


def read(directory: str, name: str) -> str:
    """Return the text of one control file."""
    descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)  # a file object would ask five things more
    try:
        found = b""
        while block := os.read(descriptor, _BLOCK):
            found += block
    finally:
        os.close(descriptor)
    return found.decode("ascii")


def write(directory: str, name: str, value: str) -> None:
    """Write one control file in a single write, as the kernel demands; never create it."""
    descriptor = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode("ascii"))
    finally:
        os.close(descriptor)


def opened(entrances: Sequence[str]) -> list[int]:
    """Open the directories and files that a process joins groups by; raises OSError, and nothing is open then."""
    found: list[int] = []
    try:
        for path in entrances:
            kind = os.O_WRONLY if path.endswith(_FILES) else os.O_RDONLY | os.O_DIRECTORY
            found.append(os.open(path, kind | os.O_CLOEXEC))
    except OSError:
        for descriptor in found:
            os.close(descriptor)
        raise
    return found


def write_if_present(directory: str, name: str, value: str) -> bool:
    """Write a control file that not every kernel has, and tell whether it is there."""
    try:
        write(directory, name, value)
    except FileNotFoundError:
        return False
    return True


def counter(directory: str, name: str, key: str) -> int:
    """Return the number behind `key` in a file of `key number` lines; 0 when file or key is missing."""
    try:
        lines = read(directory, name).splitlines()
    except OSError:
        return 0
    for line in lines:
        found, _, number = line.partition(" ")
        if found == key:
            return int(number)
    return 0


def number(directory: str, name: str) -> int:
    """Return the single number in a file, 0 when the file is missing."""
    try:
        return int(read(directory, name))
    except (OSError, ValueError):
        return 0


def members(directory: str) -> list[int]:
    """Return the pids in a group, without its child groups; none when the group is gone."""
    try:
        return [int(line) for line in read(directory, "cgroup.procs").split()]
    except OSError:
        return []


def kill_members(directory: str, passes: int = 16) -> None:
    """Send SIGKILL to every member, again while new ones turn up, at most `passes` times; do not wait."""
    seen: set[int] = set()
    for _ in range(passes):
        fresh = set(members(directory)) - seen
        if not fresh:
            return
        for pid in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        seen |= fresh


def children(directory: str) -> Iterator[str]:
    """Yield the paths of the child groups."""
    try:
        with os.scandir(directory) as entries:
            found = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    yield from found


def _below(directory: str) -> Iterator[str]:
    """Yield the paths of all groups below, each before those in it."""
    for child in children(directory):
        yield child
        yield from _below(child)


def claim(parent: str, directories: Directories) -> Base:
    """Make and lock this runner's base below `parent`; raises OSError where that is not allowed."""
    for attempt in range(_NAMES_TO_TRY):
        suffix = f".{attempt}" if attempt else ""
        path = os.path.join(parent, f"{BASE_PREFIX}{os.getpid()}{suffix}")
        with contextlib.suppress(FileExistsError):
            directories.make(path)
        lock = _lock(path)
        if lock is not None:
            return Base(path, lock)
    raise OSError(f"no free base directory below {parent}")


def sweep(parent: str, directories: Directories) -> list[str]:
    """End and remove what dead runners left below `parent`; return the bases that are gone.

    A base whose processes are still dying stays until the next sweep.
    """
    gone = []
    for path in children(parent):
        if not _BASE.fullmatch(os.path.basename(path)):  # an operator may have a group of that prefix, too
            continue
        lock = _lock(path)
        if lock is None:
            continue
        try:
            below = list(_below(path))
            for group in (path, *below):
                _end(group)
            for group in (*reversed(below), path):
                directories.remove(group)
            gone.append(path)
        except OSError:
            continue
        finally:
            os.close(lock)
    return gone


def _end(group: str) -> None:
    if not write_if_present(group, "cgroup.kill", "1"):
        kill_members(group)
        write_if_present(group, "freezer.state", "THAWED")  # a frozen process dies only when thawed


def _lock(path: str) -> int | None:
    """Lock the directory for the life of the returned descriptor; None when it is held or vanished."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except OSError:
        same = False
    if not same:
        os.close(descriptor)
        return None
    return descriptor
