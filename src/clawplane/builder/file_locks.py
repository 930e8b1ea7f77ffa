"""Lock names across processes, with files that may be deleted at any time."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

_RETRY_SECONDS = 0.05


@asynccontextmanager
async def locked(path: Path, *, shared: bool = False) -> AsyncIterator[None]:
    """Hold the lock of a file, waiting for other processes as long as it takes.

    Two runners on one cache are rare, so a contended lock is simply tried again; that also can be cancelled, which a
    blocking call in a thread cannot.
    """
    while (descriptor := _take(path, shared=shared)) is None:  # noqa: ASYNC110 - another process cannot set our event
        await asyncio.sleep(_RETRY_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_now(path: Path) -> Iterator[bool]:
    """Try to hold the lock of a file alone; False when somebody else has it."""
    descriptor = _take(path, shared=False)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take(path: Path, *, shared: bool) -> int | None:
    """Take the lock, or None. A file that was deleted between opening and locking locks nothing: take the new one."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            try:
                if os.stat(path, follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116
                    return descriptor
            except FileNotFoundError:
                pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
