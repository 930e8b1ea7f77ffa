"""Say which files of a workspace an exec created, changed or deleted.

A file counts as changed when its size, inode or change time differ; the change time is the kernel's, a guest cannot set
it. Nothing is read. Directories are not told of, nor is what we write ourselves (`.outputs`).
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import Final

from clawplane.domain.errors import Conflict
from clawplane.domain.sessions import FileChange
from clawplane.runner.workspace_paths import show
from clawplane.runner.workspace_walk import OutOfPatience, Patience, walk

MAX_COMPARED: Final = 20_000
MAX_TOLD: Final = 200
OWN_DIRECTORY: Final = b".outputs"
_SECONDS: Final = 1.0

_Mark = tuple[int, int, int]
"""size, change time in ns, inode"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one moment; not `complete` when there are more than MAX_COMPARED or we could not look at all."""

    marks: dict[bytes, _Mark] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs, by path, and a sentence for the caller when that is not all."""

    files: tuple[FileChange, ...] = ()
    note: str = ""


def take_snapshot(root: int, patience: Patience | None = None) -> Snapshot:
    """Look at every file below a directory descriptor."""
    marks: dict[bytes, _Mark] = {}
    try:
        for each in walk(root, patience or Patience(_SECONDS, MAX_COMPARED), enter=_is_the_guests):
            found = each.stat
            if not stat.S_ISDIR(found.st_mode):
                marks[each.path] = (found.st_size, found.st_ctime_ns, found.st_ino)
    except (OutOfPatience, Conflict, OSError):
        return Snapshot(marks, complete=False)
    return Snapshot(marks)


def changes(before: Snapshot, after: Snapshot) -> Changes:
    """Compare two snapshots."""
    if not (before.complete and after.complete):
        return Changes(
            note=f"The workspace holds more than {MAX_COMPARED} files, or was changed while it was looked through; "
            "which of them changed is not listed."
        )
    if before.marks == after.marks:
        return Changes()
    found = [
        *(FileChange(path=show(path), op="deleted") for path in before.marks.keys() - after.marks.keys()),
        *(
            FileChange(path=show(path), op="changed" if path in before.marks else "created", size=mark[0])
            for path, mark in after.marks.items()
            if before.marks.get(path) != mark
        ),
    ]
    found.sort(key=lambda change: change.path)
    left_out = len(found) - MAX_TOLD
    note = f"{left_out} more files changed than are listed." if left_out > 0 else ""
    return Changes(tuple(found[:MAX_TOLD]), note)


def _is_the_guests(path: bytes) -> bool:
    return path != OWN_DIRECTORY
