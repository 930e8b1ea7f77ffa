"""Take back a host tree that a guest was allowed to write to.

A guest decides how deep its tree is: deeper than a path may be long, than Python recurses, and than this process may
have files open. So the walk holds one descriptor, steps down by name and up by `..`, and never recurses.

Caches are shared: while this guest is gone, another one may still rename and remove in the same tree. So what has
vanished is passed over, nothing is changed by a name that could have become a link meanwhile, and every step up is
checked. A directory that was moved has another parent; then the walk goes down again from the top, as far as the places
are the ones that it came by.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    """A directory on the way down: how it was reached, which one it is, and the directories in it still to be seen."""

    name: str
    identity: tuple[int, int]
    left: list[str]


def reclaim(path: str) -> None:
    """Make everything in the tree ours and none of it more than ordinary.

    Set-id bits, which would give a file more rights than its owner means it to have, are taken away; directories that
    were closed to keep us out are opened. Follows no link. Call it when the guest is gone, not before.
    """
    top = os.open(path, _DIRECTORY)
    here = os.dup(top)
    try:
        if os.geteuid() == 0:
            os.fchown(here, 0, os.getegid())
        levels = [_entered("", here)]
        while levels:
            if not levels[-1].left:
                levels.pop()
                if levels:
                    here = _up(here, top, levels)
                continue
            name = levels[-1].left.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                there = os.open(name, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = there
                levels.append(_entered(name, here))
    finally:
        os.close(here)
        os.close(top)


def _entered(name: str, directory: int) -> _Level:
    return _Level(name, _identity(directory), _take_back(directory))


def _up(here: int, top: int, levels: list[_Level]) -> int:
    """Return the directory of the last level; levels whose directories are not where they were are given up."""
    there = os.open("..", _DIRECTORY, dir_fd=here)
    os.close(here)
    if _identity(there) == levels[-1].identity:
        return there
    os.close(there)
    here = os.dup(top)
    for number, level in enumerate(levels[1:], start=1):
        try:
            there = os.open(level.name, _DIRECTORY, dir_fd=here)
        except OSError:
            del levels[number:]
            break
        if _identity(there) != level.identity:
            os.close(there)
            del levels[number:]
            break
        os.close(here)
        here = there
    return here


def _identity(directory: int) -> tuple[int, int]:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino


def _take_back(directory: int) -> list[str]:
    """Reclaim what one directory holds, and return the names of the directories in it."""
    uid, gid = os.geteuid(), os.getegid()
    directories: list[str] = []
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if found.st_uid != uid:
                os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            mode = stat.S_IMODE(found.st_mode) & 0o777
            if stat.S_ISDIR(found.st_mode):
                directories.append(name)
                mode |= stat.S_IRWXU  # we descend next
            if not stat.S_ISLNK(found.st_mode) and mode != stat.S_IMODE(found.st_mode) & ~stat.S_ISVTX:
                _change_mode(name, directory, mode)
    return directories


def _change_mode(name: str, directory: int, mode: int) -> None:
    """Change the mode of what is no link, whatever the name has become."""
    there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISLNK(os.fstat(there).st_mode):
            os.chmod(f"/proc/self/fd/{there}", mode)
    finally:
        os.close(there)
