"""Write, read and edit files: atomic, literal, bounded, and nothing but regular files (10.5 of the contract).

Who runs: each task in a thread of its own; `HostHouse.file_turn` lets one change a file at a time. A file is opened
without being followed further than its path was judged, and what was really opened is judged again (paths.py). Pipes,
devices and directories are refused before they are opened for their content.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from clawplane.domain.host_tasks import FileEdit, FileRead, FileWrite, TaskReport
from clawplane.runner.host import private
from clawplane.runner.host.output import cut_mark
from clawplane.runner.host.paths import Blocked, Places, real_path_of

FILE_BYTES: Final = 10 << 20
"""What is read of one file at most; what may be edited is ten times as large."""
_EDIT_FACTOR: Final = 10
_PATH_ONLY: Final = getattr(os, "O_PATH", 0)
_OPEN: Final = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | os.O_NOCTTY | os.O_NONBLOCK


def write_file(work: FileWrite, places: Places) -> TaskReport:
    """Put content in place of a file, or make it with its parents."""
    return _told(lambda: _write(work, places), work.path)


def read_file(work: FileRead, places: Places, most: int = FILE_BYTES) -> TaskReport:
    """Return a file's text, its two ends when it is larger than `most`; or all its bytes as base64."""
    return _told(lambda: _read(work, places, most), work.path)


def edit_file(work: FileEdit, places: Places, most: int = FILE_BYTES) -> TaskReport:
    """Replace a text that occurs once, or each of its occurrences; literally, and with line ends kept."""
    return _told(lambda: _edit(work, places, most * _EDIT_FACTOR), work.path)


# the three


def _write(work: FileWrite, places: Places) -> TaskReport:
    path = places.locate(work.path)
    data = _content(work)
    real = places.real(path, writing=True)
    real.parent.mkdir(parents=True, exist_ok=True)
    _replace(real, data, places)
    return TaskReport(stdout=f"File written: {path}", exit_code=0)


def _read(work: FileRead, places: Places, most: int) -> TaskReport:
    path = places.locate(work.path)
    with _opened(path, places, writing=False) as (descriptor, size):
        whole = work.encoding == "base64"
        if whole and size > most:
            return _failed("File too large", f"{path} has {size} bytes; at most {most} can be read as base64")
        data = _bytes_of(descriptor, most + 1)
        if len(data) <= most:
            text = base64.b64encode(data).decode() if whole else data.decode("utf-8", "replace")
            return TaskReport(stdout=text, exit_code=0, metadata={"encoding": "base64"} if whole else {})
        if whole:
            return _failed("File too large", f"{path} is larger than the {most} bytes that can be read as base64")
        half = most // 2
        total = max(size, len(data))
        end = os.pread(descriptor, half, total - half)
    text = data[:half].decode("utf-8", "ignore") + cut_mark(total - 2 * half, total) + end.decode("utf-8", "ignore")
    return TaskReport(stdout=text, exit_code=0, metadata={"cut": True, "bytes": total})


def _edit(work: FileEdit, places: Places, most: int) -> TaskReport:
    path = places.locate(work.path)
    old, new = _bytes(_text(work.old_string)), _bytes(_text(work.new_string))
    try:
        with _opened(path, places, writing=True) as (descriptor, size):
            data = _bytes_of(descriptor, most + 1)
            if len(data) > most:
                return _failed("File too large", f"{path} has {size} bytes; at most {most} can be edited")
    except FileNotFoundError:
        return _failed("File not found", f"File not found: {path}")
    if not old:
        return _failed("old_string not unique", f"old_string is empty, which is found everywhere in {path}")
    count = data.count(old)
    if count == 0:
        return _failed("old_string not found", f"old_string not found in {path}")
    everywhere = _truthy(work.replace_all)
    if count > 1 and not everywhere:
        told = f"old_string found {count} times in {path}, use replace_all or provide more context"
        return _failed("old_string not unique", told)
    _replace(places.real(path, writing=True), data.replace(old, new, -1 if everywhere else 1), places)
    return TaskReport(stdout=f"File edited: {path}", exit_code=0)


# reports


def _told(work: Callable[[], TaskReport], path: str) -> TaskReport:
    try:
        return work()
    except Blocked as refusal:
        return _failed(str(refusal), refusal.told)
    except OSError as error:
        return _failed(*[_sentence(error, path)] * 2)
    except (ValueError, MemoryError) as error:
        return _failed(*[str(error) or f"{path} does not fit into memory"] * 2)


def _failed(error: str, told: str) -> TaskReport:
    return TaskReport(exit_code=1, error=error, stderr=told)


def _sentence(error: OSError, path: str) -> str:
    """Return an error as node spells it: clients know `ENOENT: no such file or directory, open '/x'`."""
    where = error.filename if isinstance(error.filename, str) else path
    code = errno.errorcode.get(error.errno or 0, "EIO")
    return f"{code}: {(error.strerror or str(error)).lower()}, open '{where}'"


# content


def _content(work: FileWrite) -> bytes:
    content = work.content
    if not _truthy(content):
        return b""
    if not isinstance(content, str):
        raise ValueError("content must be a string")  # noqa: TRY004 - it is reported, not a defect
    return _decoded(content) if work.encoding == "base64" else _bytes(content)


def _decoded(text: str) -> bytes:
    """Decode base64, its URL-safe alphabet, line breaks and missing padding included."""
    plain = "".join(text.split()).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("content is not base64") from None


def _bytes(text: str) -> bytes:
    """Encode text; halves of surrogate pairs, which JSON can hold and UTF-8 cannot, become U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _truthy(value: Any) -> bool:
    """Tell what JavaScript takes for true: everything but null, false, 0, NaN and the empty text."""
    if isinstance(value, list | dict):
        return True
    return bool(value) and not (isinstance(value, float) and math.isnan(value))


# files


@contextlib.contextmanager
def _opened(path: Path, places: Places, *, writing: bool) -> Iterator[tuple[int, int]]:
    """Yield a descriptor for reading and the size of the regular file that a path leads to."""
    real = places.real(path, writing=writing)
    handle = os.open(real, _PATH_ONLY | _OPEN if _PATH_ONLY else os.O_RDONLY | _OPEN)
    try:
        _regular(os.fstat(handle), path)
        there = real_path_of(handle)
        if there is not None:
            places.admit(there, writing=writing)
        # opened again by its handle: whatever the path leads to by now, this is the file that was judged
        descriptor = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC) if _PATH_ONLY else os.dup(handle)
        try:
            yield descriptor, os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def _bytes_of(descriptor: int, most: int) -> bytes:
    data = bytearray()
    while len(data) < most and (piece := os.read(descriptor, min(1 << 20, most - len(data)))):
        data += piece
    return bytes(data)


def _regular(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "illegal operation on a directory", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no regular file")


def _replace(real: Path, data: bytes, places: Places) -> None:
    """Let a file be `data` from one moment to the next; what was there keeps its mode and owner."""
    directory = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        there = real_path_of(directory)
        if there is not None:
            places.admit(there / real.name, writing=True)
        kept = _kept(directory, real)
        with private.replacing(real.name, directory=directory, mode=0o666 if kept is None else 0o600) as file:
            private.write_all(file, data)
            if kept is not None:
                _keep(file.fileno(), kept)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(real)) from error
    finally:
        os.close(directory)


def _kept(directory: int, real: Path) -> os.stat_result | None:
    try:
        found = os.stat(real.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _regular(found, real)
    if not os.access(real.name, os.W_OK, dir_fd=directory):
        raise PermissionError(errno.EACCES, "permission denied", str(real))
    return found


def _keep(descriptor: int, kept: os.stat_result) -> None:
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (kept.st_uid, kept.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, kept.st_uid, kept.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(kept.st_mode))
