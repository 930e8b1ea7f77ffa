"""Say in the domain's words what is wrong with the disk or the database file."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from clawplane.domain.errors import ClawplaneError, StoreBusy, StoreError, StoreFull

_FULL_BELOW = 1 << 20


def store_error(error: sqlite3.Error, path: Path) -> ClawplaneError:
    """Return the domain's error for what SQLite says about the file as a whole."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"The database {path} is locked by another process.")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _disk_is_full(path)):
        return StoreFull(f"The disk that holds the database {path} is full.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(f"The database {path} is damaged: {error}.", hint="Restore it from a backup.")
    return StoreError(
        f"The database {path} cannot be used: {error}.", hint="Check the disk and the file's permissions."
    )


def disk_error(error: OSError, path: Path) -> ClawplaneError:
    """Return the domain's error for what the file system says about a path."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"The disk that holds {path} is full.")
    return StoreError(f"{path} cannot be used: {error.strerror}.", hint="Check the disk and the permissions.")


def _disk_is_full(path: Path) -> bool:
    try:
        state = os.statvfs(path.parent)
    except OSError:
        return False
    return state.f_bavail * state.f_frsize < _FULL_BELOW
