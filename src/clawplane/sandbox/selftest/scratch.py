"""A directory of the host for as long as something is being attacked, and no longer, however that ends.

Theory of operation. Whoever makes such a directory holds a lock on it (flock), which the kernel lets go of when the
last process that has it ends, whatever ended it. So a directory that can be locked belongs to nobody any more: whoever
makes the next one removes it. The lock is taken before anything is put in, and a directory that was taken for an
abandoned one between its making and its locking is simply made again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

PREFIX: Final = "clawplane-selftest."
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch(NamedTuple):
    """The directory, private to its user, and the descriptor of its lock: a process that inherits it holds it, too."""

    path: Path
    lock: int


@contextmanager
def scratch() -> Iterator[Scratch]:
    """Make a directory below the host's temporary one, remove what nobody holds any more, and at the end itself."""
    _sweep(tempfile.gettempdir())
    made = None
    while made is None:
        made = _locked(tempfile.mkdtemp(prefix=PREFIX))
    try:
        yield made
    finally:
        shutil.rmtree(made.path, ignore_errors=True)
        os.close(made.lock)


def _sweep(place: str) -> None:
    with os.scandir(place) as entries:
        names = [entry.path for entry in entries if entry.name.startswith(PREFIX)]
    for name in names:
        with suppress(OSError):  # a link, or another user's
            abandoned = _locked(name)
            if abandoned is not None:
                shutil.rmtree(name, ignore_errors=True)
                os.close(abandoned.lock)


def _locked(name: str) -> Scratch | None:
    """Lock a directory of this user; None when somebody holds it, or it has gone meanwhile."""
    lock = -1
    try:
        lock = os.open(name, _FLAGS)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.fstat(lock)
        if mine.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", name)
        if os.path.samestat(mine, os.lstat(name)):
            made, lock = Scratch(Path(name), lock), -1
            return made
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        if lock >= 0:
            os.close(lock)
    return None
