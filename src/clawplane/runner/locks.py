"""Fetch the lock of a version's environment, which the control plane keeps as a blob named by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

from clawplane.builder.errors import BuildFailed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LARGEST_LOCK: Final = 16 << 20

Download = Callable[[str, BinaryIO], Awaitable[str]]
"""Write the blob of a key to a file and return its SHA-256."""


async def fetch_lock(key: str, download: Download) -> str:
    """Return the text of a lock; raises BuildFailed when it is not what was stored, and what the download raises."""
    arriving = _Bounded()
    await download(key, arriving)
    content = arriving.getvalue()
    if hashlib.sha256(content).hexdigest() != key.rpartition("/")[2]:
        raise BuildFailed(f"The lock {key} arrived with other bytes than were stored. Build the version again.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BuildFailed(f"The lock {key} is not text. Build the version again.") from None


class _Bounded(BytesIO):
    """Memory that takes a lock's size at most, whatever is sent."""

    def write(self, data: ReadableBuffer, /) -> int:
        if self.tell() + memoryview(data).nbytes > LARGEST_LOCK:
            raise BuildFailed(f"The lock of this version is larger than {LARGEST_LOCK} bytes.")
        return super().write(data)
