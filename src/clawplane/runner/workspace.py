"""Keep unpacked packages on disk, one directory per content, shared read-only by every sandbox that needs them.

    root/packages/SHA256/   an unpacked package; complete when it is there, for it appears by one rename
    root/arriving/          downloads and half-unpacked trees of this process; emptied at start

Theory of operation. `ensure` of a package that was used before touches neither network nor disk. The first use of a
package in this process looks for its directory; only when it is absent the blob is fetched, its hash compared with the
one the control plane vouches for, and its members created anew (never followed, never overwritten). Files are synced
before the rename, so a directory that is there is whole even after a power cut. The least recently used packages go
when all of them together exceed a size; that is looked at only when a package was added.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from clawplane.domain.archives import inspect
from clawplane.domain.errors import ClawplaneError, Unavailable

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FILE, _PROGRAM, _DIRECTORY = 0o644, 0o755, 0o755

Download = Callable[[str, BinaryIO], Awaitable[str]]
"""Write the blob of a key to a file and return its SHA-256."""


class PackageDamaged(ClawplaneError):
    """A package whose bytes are not those that were uploaded."""

    code = "package_damaged"
    default_hint = "Upload the version again."


class PackageCache:
    """Unpacked packages by SHA-256."""

    def __init__(self, root: Path, download: Download, *, max_bytes: int) -> None:
        self._packages = root / "packages"
        self._arriving = root / "arriving"
        self._download = download
        self._max_bytes = max_bytes
        self._sizes: dict[str, int] = {}
        """Known packages and their sizes in bytes, least recently used first."""
        self._counted = False
        self._in_use: Counter[str] = Counter()
        self._fetching: dict[str, asyncio.Task[int]] = {}
        self._packages.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._arriving, ignore_errors=True)
        self._arriving.mkdir()

    async def ensure(self, key: str, sha256: str) -> Path:
        """Return the directory of a package; raises Unavailable, PackageDamaged and whatever the download raises."""
        if not _SHA256.fullmatch(sha256):
            raise PackageDamaged(f"{sha256!r} is no SHA-256.")
        path = self._packages / sha256
        if sha256 not in self._sizes:
            task = self._fetching.get(sha256)
            if task is None:
                task = asyncio.create_task(self._appear(key, sha256, path))
                self._fetching[sha256] = task
                task.add_done_callback(lambda _: self._fetching.pop(sha256, None))
            self._sizes[sha256] = await asyncio.shield(task)
            await self._make_room()
        self._sizes[sha256] = self._sizes.pop(sha256)
        return path

    @contextmanager
    def using(self, sha256: str) -> Iterator[None]:
        """Keep a package from being removed while somebody runs in it."""
        self._in_use[sha256] += 1
        try:
            yield
        finally:
            self._in_use[sha256] -= 1
            if not self._in_use[sha256]:
                del self._in_use[sha256]

    async def close(self) -> None:
        """Abandon downloads under way."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _appear(self, key: str, sha256: str, path: Path) -> int:
        kept = await asyncio.to_thread(_tree_size, path)
        if kept is not None:
            return kept
        arriving = self._arriving / uuid.uuid4().hex
        try:
            with arriving.open("xb+") as file:
                found = await self._download(key, file)
                if found != sha256:
                    raise PackageDamaged(f"The package {key} has the SHA-256 {found}, expected {sha256}.")
                return await asyncio.to_thread(_unpack, file, arriving.with_suffix(".tree"), path)
        except OSError as error:
            raise Unavailable(f"The package cannot be kept on this runner: {error.strerror or error}.") from error
        finally:
            arriving.unlink(missing_ok=True)

    async def _make_room(self) -> None:
        if not self._counted:
            self._counted = True
            left_over = await asyncio.to_thread(_sizes, self._packages)
            self._sizes = {name: size for name, size in left_over.items() if name not in self._sizes} | self._sizes
        excess = sum(self._sizes.values()) - self._max_bytes
        for sha256 in list(self._sizes):
            if excess <= 0:
                return
            if self._in_use[sha256] or sha256 == next(reversed(self._sizes)):
                continue
            excess -= self._sizes.pop(sha256)
            gone = self._arriving / f"{uuid.uuid4().hex}.gone"
            (self._packages / sha256).rename(gone)
            await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)


def _unpack(file: BinaryIO, staging: Path, path: Path) -> int:
    """Create the archive's members below `staging`, then give the tree its name; return its size in bytes."""
    file.seek(0)
    archive = inspect(file, measure=False)
    staging.mkdir(mode=_DIRECTORY)
    try:
        for member in archive.extract_plan():
            target = staging / member.path
            if member.directory:
                target.mkdir(mode=_DIRECTORY)
                target.chmod(_DIRECTORY)  # the process's umask must not show in what a Worker sees
                continue
            with target.open("xb") as out:
                for chunk in archive.chunks(member):
                    out.write(chunk)
                os.fchmod(out.fileno(), _PROGRAM if member.executable else _FILE)
                out.flush()
                os.fsync(out.fileno())
        staging.chmod(_DIRECTORY)
        staging.rename(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return archive.expanded_size


def _sizes(packages: Path) -> dict[str, int]:
    """Return the sizes of all packages that earlier processes left."""
    found = ((path.name, _tree_size(path)) for path in packages.iterdir() if _SHA256.fullmatch(path.name))
    return {name: size for name, size in found if size is not None}


def _tree_size(path: Path) -> int | None:
    """Return the bytes of a tree's files, None when there is no such directory."""
    if not path.is_dir():
        return None
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
