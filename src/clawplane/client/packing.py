"""Make a Worker's ZIP from a directory: the same exclusions everywhere, reproducible bytes."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from clawplane.domain.errors import InvalidArgument

EXCLUDED_DIRECTORIES = frozenset(
    {".git", ".coreclaw", "node_modules", "__pycache__", ".pytest_cache", ".venv", "venv", "dist", "build"}
)
EXCLUDED_SUFFIXES = (".pyc", ".pyo", ".log")
EXCLUDED_NAMES = frozenset({"input.example.json"})
_EPOCH = (1980, 1, 1, 0, 0, 0)


def package_files(directory: Path) -> Iterator[Path]:
    """Yield the files of a Worker's directory that belong into its package, sorted, relative to `directory`."""
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if any(part in EXCLUDED_DIRECTORIES for part in relative.parts[:-1]):
            continue
        if path.is_symlink():
            raise InvalidArgument(
                f"{relative} is a symbolic link, and a package cannot carry links.",
                hint="Put a copy of the file there, or move it out of the directory.",
            )
        if not path.is_file() or relative.name in EXCLUDED_NAMES or relative.name.endswith(EXCLUDED_SUFFIXES):
            continue
        yield relative


def pack(directory: Path, target: BinaryIO) -> int:
    """Write the ZIP of `directory` to `target` and return the number of files; equal trees give equal bytes."""
    if not directory.is_dir():
        raise InvalidArgument(f"There is no directory {directory}.", hint="Name the Worker's directory or its ZIP.")
    count = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for relative in package_files(directory):
            path = directory / relative
            executable = path.stat().st_mode & stat.S_IXUSR
            entry = zipfile.ZipInfo(relative.as_posix(), date_time=_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            with path.open("rb") as source, archive.open(entry, "w") as sink:
                while chunk := source.read(1 << 18):
                    sink.write(chunk)
            count += 1
    if count == 0:
        raise InvalidArgument(f"{directory} holds no files to pack.", hint="Make a Worker with `clawplane init`.")
    return count
