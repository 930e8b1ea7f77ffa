"""Keep immutable files in a directory.

A blob is written to a temporary file, synced, and only then given its name, and the directory is synced after it: a
name that can be read always leads to the whole content, also after a power cut. Names are spread over 256 directories
by the hash of the key.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from clawplane.domain.errors import InvalidArgument, NotFound
from clawplane.store.faults import disk_error

P = ParamSpec("P")
T = TypeVar("T")

_KEY = re.compile(r"[a-z0-9_.-]+(?:/[a-z0-9_.-]+)*")
_MAX_KEY = 200


class DirectoryBlobs:
    """Blobs below one directory, which this process alone uses; see ports.Blobs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unfinished = directory / "unfinished"

    async def open(self) -> None:
        """Make the directory and remove what a crash left unfinished."""
        await self._on_disk(self._prepare)

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._unfinished.mkdir(mode=0o700, exist_ok=True)
        for left in self._unfinished.iterdir():
            left.unlink(missing_ok=True)

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a blob durably and return its size; a key that exists keeps its content. Raises StoreFull."""
        path = self._path(key)
        stored = await self.size(key)
        if stored is not None:
            return stored
        file = await self._on_disk(self._new_file)
        try:
            async for chunk in chunks:
                await self._on_disk(_write, file, chunk)
            return await self._on_disk(_publish, file, path)
        finally:
            _discard(file)

    async def _on_disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do file work in a thread, its errors in our words."""
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk_error(error, self._directory) from error

    def _new_file(self) -> BinaryIO:
        number, name = tempfile.mkstemp(dir=self._unfinished)
        os.close(number)
        return open(name, "wb", buffering=0)  # noqa: PTH123 - unbuffered, so that errors come at once

    async def size(self, key: str) -> int | None:
        """Return a blob's size in bytes, or None."""
        path = self._path(key)
        try:
            return (await self._on_disk(path.stat)).st_size
        except FileNotFoundError:
            return None

    async def read(self, key: str, *, chunk: int = 1 << 18) -> AsyncIterator[bytes]:
        """Yield a blob's content; raises NotFound."""
        path = self._path(key)
        try:
            file = await self._on_disk(open, path, "rb")
        except FileNotFoundError:
            raise NotFound(f"There is no blob {key}.") from None
        with file:
            while data := await self._on_disk(file.read, chunk):
                yield data

    async def delete(self, key: str) -> None:
        """Forget a blob; absent is fine."""
        await self._on_disk(_forget, self._path(key))

    def _path(self, key: str) -> Path:
        """Return where a key's content is; raises InvalidArgument for a key that we would not make."""
        if len(key) > _MAX_KEY or not _KEY.fullmatch(key) or any(set(part) == {"."} for part in key.split("/")):
            raise InvalidArgument(
                f"{key[:80]!r} is no blob key.", hint="Keys are made of a-z, 0-9, '_', '.', '-' and '/'."
            )
        shard = hashlib.sha256(key.encode()).hexdigest()[:2]
        return self._directory / shard / key.replace("/", "+")


def _write(file: BinaryIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[file.write(left) :]  # a nearly full disk takes a part first and refuses the rest


def _publish(file: BinaryIO, path: Path) -> int:
    """Make a written file durable and give it its name; return its size."""
    os.fsync(file.fileno())
    if not path.parent.is_dir():
        path.parent.mkdir(exist_ok=True)
        _sync_directory(path.parent.parent)
    with suppress(FileExistsError):  # somebody stored the same key meanwhile: the first stays
        os.link(file.name, path)
    _sync_directory(path.parent)
    return path.stat().st_size


def _discard(file: BinaryIO) -> None:
    file.close()
    with suppress(OSError):
        os.unlink(file.name)  # noqa: PTH108 - a name as mkstemp gave it


def _forget(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
