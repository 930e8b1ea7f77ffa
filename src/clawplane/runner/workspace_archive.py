"""Pack a directory of a workspace as a ZIP, piece by piece.

Theory of operation. The tree is walked once to see what there is and to refuse what is too much before a byte is
sent. Then each file is opened again below the workspace, judged by its descriptor, and packed up to the size it had;
what has become a link or vanished meanwhile is left out. Nothing is written to disk, memory holds one chunk.
"""

from __future__ import annotations

import os
import stat
import time
import zipfile
from collections.abc import Iterator
from typing import Final

from clawplane.domain.errors import ClawplaneError, TooLarge
from clawplane.runner.workspace_paths import Parts, join, open_directory, open_regular, show
from clawplane.runner.workspace_walk import OutOfPatience, Patience, walk

MAX_PACKED_ENTRIES: Final = 50_000
MAX_PACKED_BYTES: Final = 4 << 30
_CHUNK: Final = 64 << 10
_LEVEL: Final = 1
_OLDEST, _NEWEST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)


class _Sink:
    """What zipfile writes to: a stream that cannot be searched, emptied by `take`."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        self._waiting += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is nobody to pass it on to."""

    def take(self, at_least: int) -> bytes:
        if len(self._waiting) < max(at_least, 1):
            return b""
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken


class Pack:
    """A ZIP in the making: `next_chunk` until it is empty, `close` in any case."""

    def __init__(self, root: int, parts: Parts, patience: Patience) -> None:
        """Walk the tree; raises TooLarge, and what opening the directory raises."""
        self._top = open_directory(root, join(parts), links=True)
        self._members: list[tuple[bytes, bool]] = []
        self._chunks: Iterator[bytes] = iter(())
        try:
            self._look_through(patience)
        except BaseException:
            self.close()
            raise
        self._chunks = self._pack()

    def next_chunk(self) -> bytes:
        """Return some more of the ZIP, b"" at its end."""
        return next(self._chunks, b"")

    def close(self) -> None:
        """Let go of the directory."""
        self._chunks = iter(())
        if self._top >= 0:
            os.close(self._top)
            self._top = -1

    def _look_through(self, patience: Patience) -> None:
        total = 0
        try:
            for each in walk(self._top, patience):
                mode = each.stat.st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    continue
                total += each.stat.st_size if stat.S_ISREG(mode) else 0
                self._members.append((each.path, stat.S_ISDIR(mode)))
                if len(self._members) > MAX_PACKED_ENTRIES or total > MAX_PACKED_BYTES:
                    raise OutOfPatience
        except OutOfPatience:
            raise TooLarge(
                f"The directory holds more than an archive may: {MAX_PACKED_ENTRIES} entries, "
                f"{MAX_PACKED_BYTES >> 30} GB.",
                hint="Archive parts of it.",
            ) from None
        self._members.sort()

    def _pack(self) -> Iterator[bytes]:
        sink = _Sink()
        names: set[str] = set()
        left = MAX_PACKED_BYTES
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:  # type: ignore[call-overload]
            for path, is_directory in self._members:
                name = _member_name(path, names)
                if is_directory:
                    archive.writestr(zipfile.ZipInfo(name + "/", _OLDEST), b"")
                else:
                    for size in self._pack_file(archive, path, name):
                        left -= size
                        if left < 0:
                            raise TooLarge("The directory grew while it was archived.")
                        if chunk := sink.take(_CHUNK):
                            yield chunk
                if chunk := sink.take(_CHUNK):
                    yield chunk
        yield sink.take(0)

    def _pack_file(self, archive: zipfile.ZipFile, path: bytes, name: str) -> Iterator[int]:
        """Pack one file and yield the sizes of its pieces."""
        try:
            descriptor, found = open_regular(self._top, path, os.O_RDONLY)
        except (OSError, ClawplaneError):
            return  # no longer what it was when we looked
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            info = zipfile.ZipInfo(name, _moment(found))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | (0o755 if found.st_mode & 0o111 else 0o644)) << 16
            left = found.st_size
            with archive.open(info, "w", force_zip64=left > 1 << 30) as member:
                while left and (piece := file.read(min(_CHUNK, left))):
                    left -= len(piece)
                    member.write(piece)
                    yield len(piece)


def _member_name(path: bytes, taken: set[str]) -> str:
    """Return a name that no system takes for a way out of the directory it is unpacked in, and that is not taken."""
    wanted = "".join("_" if character == "\\" or not character.isprintable() else character for character in show(path))
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}~{number}"
    taken.add(name)
    return name


def _moment(found: os.stat_result) -> tuple[int, int, int, int, int, int]:
    try:
        year, month, day, hour, minute, second = time.gmtime(found.st_mtime)[:6]
    except (OverflowError, ValueError, OSError):
        return _OLDEST
    return min(max((year, month, day, hour, minute, second), _OLDEST), _NEWEST)
