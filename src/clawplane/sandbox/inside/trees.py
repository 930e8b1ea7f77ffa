"""Copy, hand over and remove trees of files, before a guest runs in them; links are never followed."""

from __future__ import annotations

import os
import stat
from typing import Final

_BLOCK: Final = 1 << 20


def copy(source: str, target: str, owner: tuple[int, int]) -> None:
    """Copy directories, files and links; leave out sockets, pipes and devices. Everything belongs to `owner`."""
    for entry in os.scandir(source):
        destination = f"{target}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), destination)
        elif entry.is_dir(follow_symlinks=False):
            os.mkdir(destination, 0o755)
            copy(entry.path, destination, owner)
            os.chmod(destination, stat.S_IMODE(entry.stat().st_mode) | 0o700)
        elif entry.is_file(follow_symlinks=False):
            _copy_file(entry.path, destination)
        else:
            continue
        os.chown(destination, *owner, follow_symlinks=False)


def _copy_file(source: str, destination: str) -> None:
    with open(source, "rb", buffering=0) as reader, open(destination, "xb", buffering=0) as writer:
        while block := reader.read(_BLOCK):
            writer.write(block)
        os.fchmod(writer.fileno(), stat.S_IMODE(os.fstat(reader.fileno()).st_mode) & 0o777)


def remove_empty(path: str) -> None:
    """Remove a directory of ours that holds at most empty directories."""
    for directory, _names, _files in os.walk(path, topdown=False):
        os.rmdir(directory)


def give(path: str, owner: tuple[int, int]) -> None:
    """Make a host tree the guest's own, where owners cannot be translated; links are never followed."""
    for _directory, names, files, descriptor in os.fwalk(path, follow_symlinks=False):
        os.fchown(descriptor, *owner)
        for name in (*names, *files):
            os.chown(name, *owner, dir_fd=descriptor, follow_symlinks=False)
