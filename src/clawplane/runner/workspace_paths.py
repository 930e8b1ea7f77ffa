"""Say which paths of a workspace may be named, and open what they name without ever leaving the workspace.

Theory of operation. A guest may change its tree between any two system calls of ours, so nothing is learned from a
name that is then used again. A name is resolved once, by openat2, below a descriptor of the workspace: the kernel
refuses `..`, absolute links, magic links and other file systems, and for everything that writes it refuses every
link. What was opened is judged by its descriptor. O_NONBLOCK keeps a FIFO or a lease of the guest from holding us up.
While a guest renames, the kernel answers EAGAIN; we try a bounded number of times, then say Conflict.

Names on disk are bytes, names on the wire are text. A byte that is no UTF-8 is shown as `\\xNN`, and a backslash that
would look like the start of such an escape as `\\x5c`; `parse` undoes both, so every name that is shown can be used.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from clawplane.domain.errors import ClawplaneError, Conflict, InvalidArgument, NotFound, TooLarge, Unavailable
from clawplane.domain.sessions import FileEntry
from clawplane.sandbox import libc

MAX_PATH: Final = 4095
MAX_NAME: Final = 255
MOUNTED_AT: Final = "/workspace"

_OPENAT2: Final = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08
_ALWAYS: Final = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_TRIES: Final = 32
_PAUSE: Final = 0.0005
_PASSABLE: Final = stat.S_IRUSR | stat.S_IXUSR

_SHOWN_BYTE: Final = re.compile(rb"\\x(5c|[89a-f][0-9a-f])")
_LOOKS_SHOWN: Final = re.compile(rb"\\(?=x(?:5c|[89a-f][0-9a-f]))")

Parts = tuple[bytes, ...]
"""The names on the way to an entry; () is the workspace itself."""


def parse(path: str, field: str = "path") -> Parts:
    """Split a path of a workspace into names; raises InvalidArgument that names `field`.

    `/workspace/a` is `a`; empty names and `.` count for nothing; a path without names is the workspace itself.
    """
    if path == MOUNTED_AT or path.startswith(MOUNTED_AT + "/"):
        path = path[len(MOUNTED_AT) :].lstrip("/")
    if path.startswith("/"):
        raise InvalidArgument(
            f"`{field}` is absolute.", hint=f"Give it relative to the workspace, or below {MOUNTED_AT}/."
        )
    if "\0" in path:
        raise InvalidArgument(f"`{field}` contains a NUL character.")
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"`{field}` contains a lone surrogate, which no name can hold.") from None
    if b"\\" in raw:
        raw = _SHOWN_BYTE.sub(lambda found: bytes([int(found[1], 16)]), raw)
    parts = tuple(name for name in raw.split(b"/") if name not in (b"", b"."))
    if b".." in parts:
        raise InvalidArgument(f"`{field}` contains `..`.", hint="A path cannot leave the workspace.")
    if any(len(name) > MAX_NAME for name in parts):
        raise InvalidArgument(f"`{field}` has a name of more than {MAX_NAME} bytes.")
    if len(b"/".join(parts)) > MAX_PATH:
        raise InvalidArgument(f"`{field}` is longer than {MAX_PATH} bytes.")
    return parts


def parse_named(path: str, field: str = "path") -> Parts:
    """Do as `parse`, but refuse the workspace itself."""
    parts = parse(path, field)
    if not parts:
        raise InvalidArgument(f"`{field}` is empty.", hint="Name a file or directory inside the workspace.")
    return parts


def show(path: bytes) -> str:
    """Return a path of the disk as text that `parse` understands."""
    if b"\\" in path:
        path = _LOOKS_SHOWN.sub(rb"\\x5c", path)
    return path.decode("utf-8", "backslashreplace")


def join(parts: Parts) -> bytes:
    """Return the path of an entry below the workspace, `.` for the workspace itself."""
    return b"/".join(parts) or b"."


def open_beneath(directory: int, path: bytes, flags: int, *, mode: int = 0, links: bool = False) -> int:
    """Open `path` below a directory descriptor; with `links` also through links that stay below it.

    Raises OSError as openat2 does, BlockingIOError when the tree does not hold still.
    """
    resolve = _BENEATH | _NO_MAGICLINKS | _NO_XDEV | (0 if links else _NO_SYMLINKS)
    if not flags & os.O_PATH:
        flags |= _ALWAYS
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_TRIES):
        try:
            return libc.syscall(_OPENAT2, directory, path, ctypes.c_char_p(how), len(how), what="openat2")
        except InterruptedError:
            continue
        except BlockingIOError:
            if attempt + 1 == _TRIES:
                raise
            time.sleep(_PAUSE)
    raise BlockingIOError(errno.EAGAIN, "openat2 was interrupted again and again")


def open_regular(directory: int, path: bytes, flags: int, *, links: bool = False) -> tuple[int, os.stat_result]:
    """Open a regular file and return its descriptor and what the descriptor says; the caller closes it.

    Raises InvalidArgument for anything that is no regular file, OSError as `open_beneath`.
    """
    descriptor = open_beneath(directory, path, flags, links=links)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidArgument(f"`path` is {_kind_in_words(found.st_mode)}, not a regular file.")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found


def open_directory(directory: int, path: bytes, *, links: bool = False) -> int:
    """Open a directory for reading and passing through.

    Where its owner has closed it to us, who are the same user, it is opened: no guest hides a tree from its quota.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        opened = open_beneath(directory, path, flags, links=links)
    except PermissionError:
        held = open_beneath(directory, path, os.O_PATH | os.O_DIRECTORY, links=links)
        try:
            # fchmod takes no O_PATH descriptor; /proc leads to exactly what it holds, never through a name.
            os.chmod(f"/proc/self/fd/{held}", stat.S_IMODE(os.fstat(held).st_mode) & 0o777 | _PASSABLE)  # noqa: PTH101
            return open_beneath(held, b".", flags)
        finally:
            os.close(held)
    mode = os.fstat(opened).st_mode
    if mode & _PASSABLE != _PASSABLE and os.geteuid() != 0:
        try:
            os.fchmod(opened, stat.S_IMODE(mode) & 0o777 | _PASSABLE)
        except BaseException:
            os.close(opened)
            raise
    return opened


def look(directory: int, path: bytes, *, links: bool = False) -> os.stat_result:
    """Describe an entry, a link as a link; `links` on the way to it as in `open_beneath`."""
    held = open_beneath(directory, path, os.O_PATH | os.O_NOFOLLOW, links=links)
    try:
        return os.fstat(held)
    finally:
        os.close(held)


def make_directories(root: int, parts: Parts) -> int:
    """Return an O_PATH descriptor of a directory, made with its parents where needed, owned as the workspace is."""
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_beneath(root, join(parts), flags)
    except FileNotFoundError:
        pass
    here = os.dup(root)
    try:
        for name in parts:
            made = _make_directory(here, name)
            there = open_beneath(here, name, flags)
            os.close(here)
            here = there
            if made:
                give_to_owner(root, here)
    except BaseException:
        os.close(here)
        raise
    return here


def give_to_owner(root: int, descriptor: int) -> None:
    """Give what a descriptor holds to the owner of the workspace, as whom its guest works.

    Only root makes files for others; an ordinary user's guests are that user.
    """
    if os.geteuid() != 0:
        return
    owner, found = os.fstat(root), os.fstat(descriptor)
    if (owner.st_uid, owner.st_gid) != (found.st_uid, found.st_gid):
        os.chown(f"/proc/self/fd/{descriptor}", owner.st_uid, owner.st_gid)


def describe(path: bytes, found: os.stat_result) -> FileEntry:
    """Return a description of an entry as callers see it."""
    mode = found.st_mode
    is_file = stat.S_ISREG(mode)
    return FileEntry(
        path="" if path == b"." else show(path),
        kind="file" if is_file else "directory" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "other",
        size=found.st_size if is_file else 0,
        modified_at=found.st_mtime_ns // 1_000_000,
        executable=is_file and bool(mode & 0o111),
    )


@contextmanager
def told_of(path: str, field: str = "path") -> Iterator[None]:
    """Turn the kernel's refusals about a path into errors for the caller."""
    try:
        yield
    except OSError as error:
        raise _told(error, f"`{field}`", path[:200]) from error


def _told(error: OSError, field: str, path: str) -> ClawplaneError:
    match error.errno:
        case errno.ENOENT:
            return NotFound(f"{field}: there is no {path!r} in the workspace.", hint="List the workspace.")
        case errno.ENOTDIR:
            return InvalidArgument(f"{field}: a part of {path!r} is not a directory.")
        case errno.EISDIR | errno.ENOTEMPTY:
            return Conflict(f"{field}: {path!r} is a directory.")
        case errno.EEXIST:
            return Conflict(f"{field}: {path!r} is there already.")
        case errno.ELOOP:
            return InvalidArgument(f"{field}: {path!r} is or leads through a symbolic link.", hint="Name its target.")
        case errno.EXDEV:
            return InvalidArgument(f"{field}: {path!r} leads out of the workspace.")
        case errno.ENAMETOOLONG | errno.EINVAL:
            return InvalidArgument(f"{field}: the file system does not take {path!r} here.")
        case errno.ENXIO | errno.ENODEV:
            return InvalidArgument(f"{field}: {path!r} is not a regular file.")
        case errno.EAGAIN:
            return Conflict(f"{field}: {path!r} changes while it is looked up.", hint="Try again.")
        case errno.EACCES | errno.EPERM:
            return Conflict(f"{field}: {path!r} is closed to its owner.", hint="Change its mode in the session.")
        case errno.ENOSPC | errno.EDQUOT:
            return TooLarge(f"{field}: the runner's disk has no room for {path!r}.", hint="Delete files.")
        case _:
            return Unavailable(f"{field}: {path!r} cannot be used: {os.strerror(error.errno or errno.EIO)}.")


def _make_directory(here: int, name: bytes) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=here)
    except FileExistsError:
        return False
    return True


def _kind_in_words(mode: int) -> str:
    for test, words in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return words
    return "a device"
