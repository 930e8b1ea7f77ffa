"""Handle, from outside, a directory tree that hostile code may have written.

Nothing here follows a symbolic link, opens anything but a regular file, or reads without a bound. Callers make sure
that the process which wrote the tree has ended.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from clawplane.builder.removal import remove_tree

MAXIMUM_DEPTH = 128


class UnusableTree(ValueError):
    """The tree holds something that an environment must not contain."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Sum of a tree: `size` in bytes with hard-linked files counted once, `entries` of any kind."""

    size: int
    entries: int


def measure(root: Path) -> Measure:
    """Count a tree."""
    return _walk(root, seal=False)


def seal(root: Path) -> Measure:
    """Make every file of a tree read-only for all, drop setuid bits and whatever is no file, and count it."""
    return _walk(root, seal=True)


def remove(root: Path) -> None:
    """Remove a tree or link, also one of any depth or with unwritable directories. Raises OSError."""
    if root.is_symlink() or root.is_file():
        root.unlink()
        return
    remove_tree(root)


def read_regular(path: Path, maximum: int) -> bytes:
    """Read at most `maximum` bytes of a regular file; anything else in its place raises UnusableTree."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnusableTree(f"{path.name} cannot be read: {error.strerror}.") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnusableTree(f"{path.name} is no regular file.")
        return file.read(maximum)


def _walk(root: Path, *, seal: bool) -> Measure:
    if not stat.S_ISDIR(os.lstat(root).st_mode):
        raise UnusableTree(f"{root.name} is no directory.")  # a link here would lead all that follows to another tree
    size = entries = 0
    counted: set[int] = set()
    pending = [(os.fspath(root), 0)]
    while pending:
        directory, depth = pending.pop()
        if depth > MAXIMUM_DEPTH:
            raise UnusableTree(f"it is nested more than {MAXIMUM_DEPTH} directories deep.")
        if seal:
            os.chmod(directory, 0o755)  # noqa: PTH101, S103 - a Worker runs as somebody else and has to read it
        with os.scandir(directory) as children:
            for child in children:
                entries += 1
                status = child.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append((child.path, depth + 1))
                elif stat.S_ISREG(status.st_mode):
                    if seal:
                        _seal_file(child.path, status)
                    if status.st_nlink == 1 or status.st_ino not in counted:
                        counted.add(status.st_ino)
                        size += status.st_size
                elif seal and not stat.S_ISLNK(status.st_mode):
                    os.unlink(child.path)  # noqa: PTH108 - one string per file of a large tree, no Path objects
    return Measure(size, entries)


def _seal_file(path: str, status: os.stat_result) -> None:
    wanted = 0o555 if status.st_mode & stat.S_IXUSR else 0o444
    if stat.S_IMODE(status.st_mode) != wanted:
        os.chmod(path, wanted)  # noqa: PTH101 - see above; `status` says that it is no link, and nobody is left to swap it


def names_in(root: Path, *parts: str, maximum: int) -> list[str]:
    """List a directory below `root`, following no link on the way; at most `maximum` names."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    opened: list[int] = []
    try:
        opened.append(os.open(root, flags))
        for part in parts:
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        with os.scandir(opened[-1]) as children:
            return [child.name for child, _ in zip(children, range(maximum), strict=False)]
    except OSError as error:
        raise UnusableTree(f"{'/'.join(parts)} cannot be listed: {error.strerror}.") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
