"""Open files that this user alone reads and writes.

Names of data files can be foreseen, and a data directory may be one that others write to: what lies there already is
used only if it is a plain file of this user's, or root's; no link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from clawplane.domain.errors import StoreError

_OTHERS = 0o077


def open_own(path: Path, *, create: bool) -> int:
    """Return a descriptor for reading and writing, mode 0600 also if the file had another one.

    Raises StoreError when the file is a link, no plain file, or somebody else's; OSError as the file system does.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_CREAT if create else 0)
    try:
        file = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(
                f"{path} is a symbolic link.", hint="Remove it, or name the file that it leads to."
            ) from None
        if error.errno == errno.EISDIR:
            raise _no_file(path) from None
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise _no_file(path)
        if found.st_uid not in (os.geteuid(), 0):
            raise StoreError(
                f"{path} belongs to another user.", hint="Remove it, or give it to the server's user: chown."
            )
        if found.st_mode & _OTHERS:
            os.fchmod(file, 0o600)
    except BaseException:
        os.close(file)
        raise
    return file


def _no_file(path: Path) -> StoreError:
    return StoreError(f"{path} is no plain file.", hint="Remove it, or use another data directory.")
