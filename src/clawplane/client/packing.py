"""Make a Worker's ZIP from a directory: the same exclusions everywhere, reproducible bytes."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from clawplane.domain.errors import InvalidArgument

EXCLUDED_DIRECTORIES = frozenset(
    {".git", ".coreclaw", "node_modules", "__pycache__", ".pytest_cache", ".venv", "venv", "dist", "build"}
)
EXCLUDED_SUFFIXES = (".pyc", ".pyo", ".log")
EXCLUDED_NAMES = frozenset({"input.example.json"})
_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 18


def package_files(directory: Path) -> Iterator[Path]:
    """Yield the files of a Worker's directory that belong into its package, sorted, relative to `directory`.

    Raises InvalidArgument for whatever a package cannot carry, and for what cannot be read: a package that silently
    lacks a file would fail far from here.
    """
    found = []
    for place, directories, files in os.walk(directory, onerror=_unreadable):
        directories[:] = [name for name in directories if name not in EXCLUDED_DIRECTORIES]
        relative = Path(place).relative_to(directory)
        found += [relative / name for name in directories if (Path(place) / name).is_symlink()]
        found += [relative / name for name in files if not _left_out(name)]
    for path in sorted(found):
        _check(path, directory)
        yield path


def _left_out(name: str) -> bool:
    return name in EXCLUDED_NAMES or name.endswith(EXCLUDED_SUFFIXES)


def _check(path: Path, directory: Path) -> None:
    mode = (directory / path).lstat().st_mode
    if stat.S_ISLNK(mode):
        raise InvalidArgument(
            f"{path} is a symbolic link, and a package cannot carry links.",
            hint="Put a copy of the file there, or move it out of the directory.",
        )
    if not stat.S_ISREG(mode):
        raise InvalidArgument(f"{path} is no regular file.", hint="Move it out of the directory.")
    try:
        str(path).encode()
    except UnicodeError:
        raise InvalidArgument(f"The name {os.fsencode(path)!r} is not UTF-8.", hint="Rename the file.") from None


def _unreadable(error: OSError) -> NoReturn:
    raise InvalidArgument(
        f"{error.filename}: {error.strerror}.", hint="Let yourself read it, or move it out of the directory."
    )


def pack(directory: Path, target: BinaryIO, *, on_file: Callable[[int], None] = lambda _: None) -> int:
    """Write the ZIP of `directory` to `target` and return the number of files; equal trees give equal bytes.

    `on_file` hears the number of files packed so far.
    """
    if not directory.is_dir():
        raise InvalidArgument(f"There is no directory {directory}.", hint="Name the Worker's directory or its ZIP.")
    count = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for relative in package_files(directory):
            _add(archive, directory, relative)
            count += 1
            on_file(count)
    if count == 0:
        raise InvalidArgument(f"{directory} holds no files to pack.", hint="Make a Worker with `clawplane init`.")
    return count


def _add(archive: zipfile.ZipFile, directory: Path, relative: Path) -> None:
    try:
        source = (directory / relative).open("rb")
    except OSError as error:
        _unreadable(error)
    with source:
        about = os.fstat(source.fileno())
        entry = zipfile.ZipInfo(relative.as_posix(), date_time=_EPOCH)
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.create_system = 3
        entry.external_attr = (stat.S_IFREG | (0o755 if about.st_mode & stat.S_IXUSR else 0o644)) << 16
        entry.file_size = about.st_size  # decides whether the entry needs the 64-bit form
        with archive.open(entry, "w") as sink:
            while chunk := source.read(_CHUNK):
                sink.write(chunk)
