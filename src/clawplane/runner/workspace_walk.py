"""Walk, measure and delete trees that a living guest may change at any moment.

Theory of operation. A guest decides how deep its tree is: deeper than a path may be long, than Python recurses, than we
may have files open. So a walk holds one descriptor. It steps down by name (openat2, no link) and up by `..`, and
believes in `..` only when device and inode are those it came from: a guest that moves the directory under our feet
ends the walk, it does not lead it elsewhere. Every walk has bounds: entries, seconds, and the caller's will.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from clawplane.domain.errors import Conflict, Unavailable
from clawplane.runner.workspace_paths import open_directory

_LOOKS_BETWEEN_CHECKS: Final = 256
_ROUNDS: Final = 8
"""How often a directory is emptied again that a guest fills while it is deleted."""


class Interrupted(Exception):
    """A walk whose caller has left."""


@dataclass(slots=True)
class Patience:
    """How long and how far a walk may go; `stop` is set when the caller has left."""

    seconds: float
    entries: int
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    seen: int = 0
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds

    def spend(self) -> bool:
        """Count one entry and say whether the walk may go on; raises Interrupted."""
        self.seen += 1
        if self.seen > self.entries:
            return False
        if self.seen % _LOOKS_BETWEEN_CHECKS:
            return True
        if self.stop.is_set():
            raise Interrupted
        return self.clock() < self._end


@dataclass(frozen=True, slots=True)
class Usage:
    """What a workspace takes of the disk; `complete` is false when the walk had to end before the tree did."""

    bytes: int
    inodes: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a walk: its path below the top, the directory that holds it (open until the next), its name."""

    path: bytes
    directory: int
    name: bytes
    stat: os.stat_result


class _Descent:
    """One descriptor that goes down and up a tree."""

    def __init__(self, top: int) -> None:
        self.here = open_directory(top, b".")
        self._way = [_identity(self.here)]

    def down(self, name: bytes) -> None:
        there = open_directory(self.here, name)
        os.close(self.here)
        self.here = there
        self._way.append(_identity(there))

    def up(self) -> None:
        there = os.open(b"..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.here)
        self._way.pop()
        if _identity(there) != self._way[-1]:
            os.close(there)
            raise Conflict("The directory was moved while it was looked through.", hint="Try again.")
        os.close(self.here)
        self.here = there

    def close(self) -> None:
        os.close(self.here)


class OutOfPatience(Exception):
    """The bounds of a walk are reached before its end."""


def walk(
    top: int, patience: Patience, *, recursive: bool = True, enter: Callable[[bytes], bool] | None = None
) -> Iterator[Found]:
    """Yield what is below a directory descriptor, directories before what they hold; links are not followed.

    `enter` says which directories to look into. Raises OutOfPatience, Interrupted, Conflict when the guest moves
    directories on the way, OSError when the top cannot be read.
    """
    descent = _Descent(top)
    try:
        levels: list[list[tuple[bytes, bytes]]] = [[]]
        yield from _entries(descent, b"", levels[0], patience, enter)
        while recursive and levels:
            if not levels[-1]:
                levels.pop()
                if levels:
                    descent.up()
                continue
            name, path = levels[-1].pop()
            try:
                descent.down(name)
            except OSError:
                continue  # gone or no directory any more
            levels.append([])
            yield from _entries(descent, path + b"/", levels[-1], patience, enter)
    finally:
        descent.close()


def _entries(
    descent: _Descent,
    prefix: bytes,
    directories: list[tuple[bytes, bytes]],
    patience: Patience,
    enter: Callable[[bytes], bool] | None,
) -> Iterator[Found]:
    with os.scandir(descent.here) as entries:
        for entry in entries:
            if not patience.spend():
                raise OutOfPatience
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone between the listing and the look
            name = os.fsencode(entry.name)
            path = prefix + name
            if stat.S_ISDIR(found.st_mode) and (enter is None or enter(path)):
                directories.append((name, path))
            yield Found(path, descent.here, name, found)


def measure(top: int, patience: Patience) -> Usage:
    """Return what a tree takes: blocks really taken, a file with several names once."""
    size, inodes = 0, 0
    linked: set[int] = set()
    try:
        for each in walk(top, patience):
            if each.stat.st_nlink > 1 and not stat.S_ISDIR(each.stat.st_mode):
                if each.stat.st_ino in linked:
                    continue
                linked.add(each.stat.st_ino)
            size += each.stat.st_blocks * 512
            inodes += 1
    except (Conflict, OutOfPatience):
        return Usage(size, inodes, complete=False)
    return Usage(size, inodes)


def remove_tree(parent: int, name: bytes, patience: Patience) -> None:
    """Delete a directory and all that is in it; follows no link.

    Raises Conflict when the guest moves or refills it, Unavailable when it takes too long, OSError as the kernel does.
    """
    for _ in range(_ROUNDS):
        _spend(patience)
        _empty(parent, name, patience)
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            if not _is_refilled(error):
                raise
        else:
            return
    raise Conflict("The directory is filled while it is deleted.", hint="Stop what writes there and try again.")


def _empty(parent: int, name: bytes, patience: Patience) -> None:
    held = open_directory(parent, name)
    try:
        descent = _Descent(held)
    finally:
        os.close(held)
    try:
        levels = [_unlink_files(descent.here, patience)]
        names: list[bytes] = []
        while True:
            if levels[-1]:
                _spend(patience)
                below = levels[-1].pop()
                try:
                    descent.down(below)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                levels.append(_unlink_files(descent.here, patience))
                names.append(below)
                continue
            levels.pop()
            if not levels:
                return
            descent.up()
            _remove_if_empty(descent.here, names.pop())
    finally:
        descent.close()


def _unlink_files(directory: int, patience: Patience) -> list[bytes]:
    """Delete everything in a directory that is no directory; return the directories in it."""
    directories: list[bytes] = []
    mode = os.fstat(directory).st_mode
    if mode & stat.S_IRWXU != stat.S_IRWXU and os.geteuid() != 0:
        os.fchmod(directory, stat.S_IMODE(mode) & 0o777 | stat.S_IRWXU)
    with os.scandir(directory) as entries:
        for entry in entries:
            _spend(patience)
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                directories.append(name)
                continue
            try:
                os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                pass
            except IsADirectoryError:
                directories.append(name)
    return directories


def _spend(patience: Patience) -> None:
    if not patience.spend():
        raise Unavailable(
            "The directory holds too much to be deleted at once.", hint="Ask again: what was deleted stays deleted."
        )


def _remove_if_empty(directory: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        if not _is_refilled(error):
            raise


def _is_refilled(error: OSError) -> bool:
    return error.errno in (errno.ENOTEMPTY, errno.EEXIST)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
