"""Write files of a workspace so that each changes at once and whole, or not at all.

Theory of operation. A draft is a file without a name (O_TMPFILE) in the directory that will hold it. It gets its
content, its owner and mode through its descriptor, is synced, and only then a name: by one link where nothing was, by
link and rename where something is replaced. A guest sees no half-written file, and a runner that dies leaves nothing.
An append is drafted the same way and then added to the file by its descriptor, taken back if the disk is full.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from typing import Final

from clawplane.domain.errors import Conflict, InvalidArgument
from clawplane.domain.sessions import FileEntry
from clawplane.runner.workspace_paths import (
    Parts,
    describe,
    give_to_owner,
    join,
    look,
    make_directories,
    open_beneath,
    open_regular,
)

_FILE: Final = 0o644
_PRIVATE: Final = 0o600
_COPIED_AT_ONCE: Final = 1 << 20
_NO_TEMPORARY: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


class Draft:
    """A file to be: `write` any number of times, then `publish` or `append_to_file`; `close` in any case."""

    def __init__(self, root: int, parts: Parts, *, create_only: bool = False) -> None:
        """Make an empty draft of the file `parts`; parents are made. Raises what `open_beneath` raises, Conflict."""
        self._root, self._parts, self._name = root, parts, parts[-1]
        self._create_only = create_only
        self._temporary: bytes | None = None
        self._file = -1
        self._parent = make_directories(root, parts[:-1])
        try:
            self._mode = self._mode_of_target()
            self._file = self._open()
        except BaseException:
            self.close()
            raise

    def write(self, chunk: bytes) -> None:
        """Add bytes; raises OSError when the disk is full."""
        left = memoryview(chunk)
        while left:
            left = left[os.write(self._file, left) :]

    def publish(self) -> FileEntry:
        """Give the draft its name and return what it is now; raises Conflict, OSError."""
        os.fchmod(self._file, self._mode)
        give_to_owner(self._root, self._file)
        os.fsync(self._file)
        try:
            self._link(self._name)
        except FileExistsError:
            if self._create_only:
                raise
            self._replace()
        return describe(join(self._parts), os.fstat(self._file))

    def append_to_file(self) -> FileEntry:
        """Add the draft's bytes to the end of the file, or be the file where there is none."""
        try:
            target, found = open_regular(self._parent, self._name, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return self.publish()
        try:
            if found.st_nlink > 1:
                raise Conflict("`path` has several names (hard links); bytes are not added to such a file.")
            self._copy_to(target)
            os.fsync(target)
            return describe(join(self._parts), os.fstat(target))
        finally:
            os.close(target)

    def close(self) -> None:
        """Let go of everything; what has no name vanishes."""
        if self._temporary is not None:
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._parent)
            self._temporary = None
        for descriptor in (self._file, self._parent):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._parent = -1

    def _mode_of_target(self) -> int:
        try:
            found = look(self._parent, self._name)
        except FileNotFoundError:
            return _FILE
        if self._create_only:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if stat.S_ISLNK(found.st_mode):
            raise InvalidArgument(
                "`path` is a symbolic link; nothing is written through links.", hint="Delete it first."
            )
        if stat.S_ISDIR(found.st_mode):
            raise Conflict("`path` is a directory.")
        if not stat.S_ISREG(found.st_mode):
            raise InvalidArgument("`path` is not a regular file.", hint="Delete it first.")
        return stat.S_IMODE(found.st_mode) & 0o777

    def _open(self) -> int:
        try:
            return open_beneath(self._parent, b".", os.O_RDWR | os.O_TMPFILE, mode=_PRIVATE)
        except OSError as error:
            if error.errno not in _NO_TEMPORARY:
                raise
        # A file system without nameless files: the draft has a name of its own meanwhile.
        name = _unguessable()
        file = open_beneath(self._parent, name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=_PRIVATE)
        self._temporary = name
        return file

    def _link(self, name: bytes) -> None:
        os.link(f"/proc/self/fd/{self._file}", name, dst_dir_fd=self._parent)  # follows to what the descriptor holds

    def _replace(self) -> None:
        if self._temporary is None:
            name = _unguessable()
            self._link(name)
            self._temporary = name
        os.rename(self._temporary, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        self._temporary = None

    def _copy_to(self, target: int) -> None:
        before, offset = os.fstat(target).st_size, 0
        try:
            while chunk := os.pread(self._file, _COPIED_AT_ONCE, offset):
                offset += os.write(target, chunk)
        except OSError:
            if os.fstat(target).st_size == before + offset:
                os.ftruncate(target, before)
            raise


def _unguessable() -> bytes:
    return b".clawplane-" + secrets.token_hex(12).encode()
