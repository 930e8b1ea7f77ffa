"""Keep files to this user: private modes, and nothing that another user could have planted is followed or believed.

A directory is opened once, checked, and then used by its descriptor; a file is opened without following a symbolic
link and believed only when it is a regular file of this user with one name.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | _NOFOLLOW | os.O_NONBLOCK
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | _NOFOLLOW


class NotPrivate(OSError):
    """What lies at a place is not this user's own, or not what it should be."""


def open_directory(path: Path) -> int:
    """Return a descriptor of a directory that only this user can use, made if need be.

    Raises NotPrivate when a symbolic link, another user's directory or a file is there, and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        descriptor = os.open(path, _DIRECTORY)
    except NotADirectoryError:
        raise NotPrivate(f"{path} is a symbolic link or no directory") from None
    except OSError as error:
        if path.is_symlink():
            raise NotPrivate(f"{path} is a symbolic link") from error
        raise
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise NotPrivate(f"{path} belongs to another user")
        if found.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def names(directory: int) -> list[str]:
    """Return the names in an open directory."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def read(name: str | Path, *, directory: int | None = None) -> bytes | None:
    """Return the content of a private file, None when there is none; raises NotPrivate and OSError."""
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refusal(name, directory, error) from error
    with os.fdopen(descriptor, "rb") as file:
        _check(file.fileno(), name)
        return file.read()


def append(name: str | Path, *, directory: int | None = None) -> BinaryIO:
    """Open a private file for appending, made if need be; raises NotPrivate and OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | _NOFOLLOW
    try:
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise _refusal(name, directory, error) from error
    try:
        _check(descriptor, name)
        return os.fdopen(descriptor, "ab", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def create(name: str | Path, *, directory: int | None = None, mode: int = 0o600) -> BinaryIO:
    """Make a file that was not there, private unless `mode` says otherwise; raises FileExistsError and OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _NOFOLLOW
    return os.fdopen(os.open(name, flags, mode, dir_fd=directory), "w+b", buffering=0)


def write(path: str | Path, data: bytes, *, directory: int | None = None) -> None:
    """Replace a private file in one step and durably; raises NotPrivate when what is there is not ours, and OSError."""
    path = Path(path)
    own = directory if directory is not None else os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            _judge(os.stat(path.name, dir_fd=own, follow_symlinks=False), path)
        with replacing(path.name, directory=own) as file:
            write_all(file, data)
        os.fsync(own)
    finally:
        if directory is None:
            os.close(own)


@contextlib.contextmanager
def replacing(name: str, *, directory: int, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `name` when it was written; a failure leaves what was there."""
    fresh = f".clawplane.{secrets.token_hex(12)}"
    try:
        with create(fresh, directory=directory, mode=mode) as file:
            yield file
            os.fsync(file.fileno())
        os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh, dir_fd=directory)
        raise


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write to a file without a buffer, which may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _check(descriptor: int, name: str | Path) -> None:
    found = os.fstat(descriptor)
    _judge(found, name)
    if found.st_mode & 0o077:
        os.fchmod(descriptor, 0o600)


def _judge(found: os.stat_result, name: str | Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotPrivate(f"{name} is no regular file")
    if found.st_uid != os.geteuid():
        raise NotPrivate(f"{name} belongs to another user")
    if found.st_nlink > 1:
        raise NotPrivate(f"{name} has more than one name")


def _refusal(name: str | Path, directory: int | None, error: OSError) -> OSError:
    with contextlib.suppress(OSError):
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            return NotPrivate(f"{name} is a symbolic link or no regular file")
    return error
