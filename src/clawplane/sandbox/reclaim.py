"""Take back a host tree that a guest was allowed to write to."""

from __future__ import annotations

import os
import stat


def reclaim(path: str) -> None:
    """Make everything in the tree ours and none of it more than ordinary.

    Set-id bits, which would give a file more rights than its owner means it to have, are taken away; directories that
    were closed to keep us out are opened. Follows no link. Call it when the guest is gone, not before.
    """
    uid, gid = os.geteuid(), os.getegid()
    for _directory, names, files, descriptor in os.fwalk(path, follow_symlinks=False):
        for name in (*names, *files):
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if found.st_uid != uid:
                os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
            if found.st_mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(found.st_mode):
                os.chmod(name, stat.S_IMODE(found.st_mode) & 0o777, dir_fd=descriptor)
            if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(name, stat.S_IMODE(found.st_mode) & 0o777 | stat.S_IRWXU, dir_fd=descriptor)  # we descend next
    if os.geteuid() == 0 and os.stat(path).st_uid != uid:
        os.chown(path, uid, gid)
