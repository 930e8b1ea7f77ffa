"""Remove a tree of any depth, whatever its author did to keep it.

One descriptor, down by name, up by `..`: no recursion, no path that grows, no descriptor a level. A step up is checked,
because a directory that somebody moves meanwhile has another parent; then the walk begins anew at the top.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES: Final = 5
_CHANGED: Final = (errno.ENOTEMPTY, errno.EEXIST, errno.ESTALE)


def remove_tree(root: Path) -> None:
    """Remove a directory with all it holds. Follows no link; what is gone already is no error. Raises OSError."""
    for tries_left in reversed(range(_TRIES)):
        try:
            _empty(root)
            root.rmdir()
        except FileNotFoundError:
            return
        except OSError as problem:
            if problem.errno not in _CHANGED or not tries_left:
                raise
        else:
            return


def _empty(root: Path) -> None:
    """Remove all that a directory holds."""
    above = os.open(root.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        here = _enter(root.name, above)
    finally:
        os.close(above)
    try:
        way = [("", _identity(here), _clear(here))]
        while True:
            name, _, left = way[-1]
            if left:
                with contextlib.suppress(FileNotFoundError):
                    inner = left.pop()
                    there = _enter(inner, here)
                    os.close(here)
                    here = there
                    way.append((inner, _identity(here), _clear(here)))
                continue
            way.pop()
            if not way:
                return
            there = os.open("..", _DIRECTORY, dir_fd=here)
            os.close(here)
            here = there
            if _identity(here) != way[-1][1]:
                raise OSError(errno.ESTALE, "it was moved while it was removed", str(root))
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)


def _clear(directory: int) -> list[str]:
    """Remove what is no directory, and return the names of the directories."""
    directories = []
    with os.scandir(directory) as children:
        for child in children:
            if child.is_dir(follow_symlinks=False):
                directories.append(child.name)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(child.name, dir_fd=directory)
    return directories


def _enter(name: str, above: int) -> int:
    """Open a directory, and make it one that can be changed."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        link = f"/proc/self/fd/{place}"
        mode = stat.S_IMODE(os.fstat(place).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(link, mode | stat.S_IRWXU)  # noqa: PTH101 - the descriptor, by the only name it has
        return os.open(link, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(place)


def _identity(directory: int) -> tuple[int, int]:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino
