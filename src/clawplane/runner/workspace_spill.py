"""Keep the whole output of an exec in its workspace, when it is more than the answer holds.

The directory belongs to the guest, which may put anything in our way: then there is no file, and the answer says so.
Writing never raises and never waits for more than the disk's cache.
"""

from __future__ import annotations

import os
from contextlib import suppress

from clawplane.domain.errors import ClawplaneError
from clawplane.runner.workspace_paths import Parts, give_to_owner, join, make_directories, open_beneath, show

_READABLE = 0o644


class Spill:
    """A file that appears with its byte number `after` + 1 and stops growing at `limit` bytes."""

    def __init__(self, root: int, parts: Parts, *, after: int, limit: int) -> None:
        self.dropped = 0
        """Bytes beyond the limit, or that could not be written."""
        self._root, self._parts, self._after, self._left = root, parts, after, limit
        self._waiting: bytearray | None = bytearray()
        self._file = -1

    @property
    def path(self) -> str:
        """The file's path in the workspace; "" while there is none."""
        return show(join(self._parts)) if self._file >= 0 else ""

    def write(self, data: bytes) -> None:
        """Add bytes of output; never raises."""
        if self._waiting is not None:
            self._waiting += data
            if len(self._waiting) <= self._after:
                return
            data, self._waiting = bytes(self._waiting), None
            self._open()
        kept = memoryview(data)[: self._left]
        self.dropped += len(data) - len(kept)
        self._left -= len(kept)
        while kept and self._file >= 0:
            try:
                kept = kept[os.write(self._file, kept) :]
            except OSError:
                self._left = 0  # the disk is full: what is there stays
                break
        self.dropped += len(kept)

    def close(self) -> None:
        """Close the file; `path` is empty afterwards, so ask before."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        with suppress(OSError, ClawplaneError):
            parent = make_directories(self._root, self._parts[:-1])
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
                opened = open_beneath(parent, self._parts[-1], flags, mode=_READABLE)
            finally:
                os.close(parent)
            try:
                give_to_owner(self._root, opened)
            except OSError:
                os.close(opened)
                raise
            self._file = opened
