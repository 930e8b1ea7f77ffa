"""Keep the whole of large outputs in private files of the runner's data directory, within bounds.

Opening and writing wait for a thread, and whoever reads the program's pipe waits for the writing: a program that prints
faster than the disk takes is slowed down, not remembered. A file stops growing at its limit, or when the disk has
little room left; it then says that it is not complete. Old files go first when all of them together are too large.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from clawplane.runner.host import private
from clawplane.runner.host.output import Sink

_BLOCK: Final = 1 << 20
_KEEP_SECONDS: Final = 7 * 86_400.0
_DISK_RESERVE: Final = 512 << 20
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")

_log = logging.getLogger(__name__)


class Spills:
    """The directory of large outputs; sizes in bytes."""

    def __init__(self, directory: Path, *, most_each: int = 256 << 20, most: int = 2 << 30) -> None:
        self.directory = directory
        self._most_each = most_each
        self._most = most
        self._open: set[str] = set()
        self._descriptor = private.open_directory(directory)
        self._held = threading.Lock()
        """Held by a thread that opens a file: the directory is not closed under it."""

    def close(self) -> None:
        """Let go of the directory; files that are written to stay open."""
        with self._held:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    async def open(self, task: str, stream: str) -> Sink | None:
        """Return a file for one stream of a task; None when there cannot be one, which is logged."""
        name = f"{task if _PLAIN.fullmatch(task) else 'task'}.{secrets.token_hex(6)}.{stream}"
        creating = asyncio.ensure_future(asyncio.to_thread(self._create, name))
        try:
            file = await asyncio.shield(creating)
        except asyncio.CancelledError:
            creating.add_done_callback(lambda made: None if made.cancelled() else self._forget(name, made.result()))
            raise
        if file is None:
            return None
        return Spill(self.directory / name, file, self._most_each, partial(self._forget, name))

    def _create(self, name: str) -> BinaryIO | None:
        with self._held:
            try:
                self.sweep()
                file = private.create(name, directory=self._descriptor)
            except OSError as error:
                _log.warning("The whole output of a task is not kept: %s", error)
                return None
            self._open.add(name)
            return file

    def _forget(self, name: str, file: BinaryIO | None) -> None:
        """Close a file that was open; it may be removed from now on."""
        if file is not None:
            file.close()
        self._open.discard(name)

    def sweep(self, *, now: float | None = None) -> None:
        """Remove what is older than a week, and the oldest while all together are too large."""
        now = time.time() if now is None else now
        found = []
        for name in private.names(self._descriptor):
            with contextlib.suppress(OSError):
                seen = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                found.append((seen.st_mtime, seen.st_size, name))
        total = sum(size for _, size, _ in found)
        for changed, size, name in sorted(found):
            if now - changed < _KEEP_SECONDS and total <= self._most:
                break
            if name not in self._open:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._descriptor)
                    total -= size


class Spill:
    """One growing file; implements `Sink`."""

    def __init__(self, path: Path, file: BinaryIO, most: int, close: Callable[[BinaryIO], None]) -> None:
        self._path = path
        self._file: BinaryIO | None = file
        self._left = most
        self._written = 0
        self._waiting = bytearray()
        self._complete = True
        self._close = close

    async def write(self, data: bytes) -> None:
        """Keep more, in blocks; stops at the limit or when the disk refuses."""
        if len(data) > self._left:
            data = data[: self._left]
            self._complete = False
        self._left -= len(data)
        self._waiting += data
        if len(self._waiting) >= _BLOCK:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        block, self._waiting = self._waiting, bytearray()
        if block and self._file is not None:
            await asyncio.to_thread(self._put, self._file, bytes(block))

    async def close(self) -> None:
        """Write what waits and close the file."""
        await self.flush()
        if self._file is not None:
            self._close(self._file)
            self._file = None

    @property
    def metadata(self) -> dict[str, Any]:
        """Return where the file is, how much it holds, and whether that is everything."""
        return {"path": str(self._path), "saved": self._written, "complete": self._complete}

    def _put(self, file: BinaryIO, block: bytes) -> None:
        try:
            disk = os.fstatvfs(file.fileno())
            if disk.f_bavail * disk.f_frsize < _DISK_RESERVE:
                raise OSError("the disk has little room left")
            view = memoryview(block)
            while view:
                count = file.write(view)
                self._written += count
                view = view[count:]
        except OSError as error:
            _log.warning("The output in %s is not complete: %s", self._path, error)
            self._complete = False
            self._left = 0
