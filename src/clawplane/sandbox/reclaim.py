"""Take back a host tree that a guest was allowed to write to.

A guest decides how deep its tree is: deeper than a path may be long, than Python recurses, and than this process may
have files open. So the walk holds one descriptor, steps down by name and up by `..`, and never recurses.
"""

from __future__ import annotations

import os
import stat
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def reclaim(path: str) -> None:
    """Make everything in the tree ours and none of it more than ordinary.

    Set-id bits, which would give a file more rights than its owner means it to have, are taken away; directories that
    were closed to keep us out are opened. Follows no link. Call it when the guest is gone, not before.
    """
    here = os.open(path, _DIRECTORY)
    try:
        if os.geteuid() == 0:
            os.fchown(here, 0, os.getegid())
        below = [_take_back(here)]
        while True:
            step = below[-1].pop() if below[-1] else ".."
            if step == "..":
                below.pop()
                if not below:
                    return
            there = os.open(step, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = there
            if step != "..":
                below.append(_take_back(here))
    finally:
        os.close(here)


def _take_back(directory: int) -> list[str]:
    """Reclaim what one directory holds, and return the names of the directories in it."""
    uid, gid = os.geteuid(), os.getegid()
    directories: list[str] = []
    for name in os.listdir(directory):
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if found.st_uid != uid:
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        if found.st_mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(found.st_mode):
            os.chmod(name, stat.S_IMODE(found.st_mode) & 0o777, dir_fd=directory)
        if stat.S_ISDIR(found.st_mode):
            directories.append(name)
            if found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                mode = stat.S_IMODE(found.st_mode) & 0o777 | stat.S_IRWXU  # we descend next
                os.chmod(name, mode, dir_fd=directory)
    return directories
