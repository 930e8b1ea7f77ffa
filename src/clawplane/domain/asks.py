"""What the control plane asks of a live session, or of a running host task, over the link: a value per question.

method -> question -> (events, Told) -> answer. All as msgpack; the table METHODS is the contract of both ends.
"""

from __future__ import annotations

import msgspec

from clawplane.domain.sessions import ExecEvent, ExecRequest, ExecResult, FileEntry, LiveState
from clawplane.domain.tool_uses import Decide, Decided, ToolUses


class Nothing(msgspec.Struct, frozen=True, kw_only=True):
    """No question, or no answer, but done."""


class Interrupt(msgspec.Struct, frozen=True, kw_only=True):
    """Interrupt the exec with this id, or whatever runs ("")."""

    exec_id: str = ""


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """Replace the interpreter of a context; `forget_context` ends a context that is not the session's own."""

    context: str = ""
    forget_context: bool = False


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """Go back to before the last `execs` Python execs, or to before the exec with this id."""

    execs: int = 1
    before: str = ""


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """Make an independent copy of the live interpreter, to become the session `session`."""

    session: str


class Sleep(msgspec.Struct, frozen=True, kw_only=True):
    """Go to sleep now: frozen in memory, or saved to disk."""

    save: bool = False


class ListFiles(msgspec.Struct, frozen=True, kw_only=True):
    """List a directory of the workspace."""

    path: str = ""
    recursive: bool = False
    limit: int = 10_000


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """A listing; `more` when the limit cut it."""

    files: tuple[FileEntry, ...]
    more: bool = False


class ReadFile(msgspec.Struct, frozen=True, kw_only=True):
    """Read `limit` bytes from `offset`; the answer streams as Told frames of raw bytes, then Read."""

    path: str
    offset: int = 0
    limit: int | None = None


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """Stream a directory of the workspace as a ZIP."""

    path: str = ""


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """How much was streamed, and how large the file is."""

    sent: int
    size: int


class WriteFile(msgspec.Struct, frozen=True, kw_only=True):
    """Write a file from the frames fed after this question; atomic: the file changes when the last one came."""

    path: str
    append: bool = False
    create_only: bool = False


class EditFile(msgspec.Struct, frozen=True, kw_only=True):
    """Replace a string once (refused when it is there more than once) or everywhere."""

    path: str
    old: str
    new: str
    everywhere: bool = False


class Edited(msgspec.Struct, frozen=True, kw_only=True):
    """How many places changed."""

    replaced: int


class DeleteFile(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a file or, recursively, a directory."""

    path: str
    recursive: bool = False


class MakeDirectory(msgspec.Struct, frozen=True, kw_only=True):
    """Make a directory and its parents."""

    path: str


class MoveFile(msgspec.Struct, frozen=True, kw_only=True):
    """Rename within the workspace."""

    path: str
    to: str


class StatFile(msgspec.Struct, frozen=True, kw_only=True):
    """Describe one entry."""

    path: str


METHODS: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct] | type[bytes] | None, type[msgspec.Struct]]] = {
    "exec": (ExecRequest, ExecEvent, ExecResult),
    "interrupt": (Interrupt, None, Nothing),
    "reset": (Reset, None, LiveState),
    "rollback": (Rollback, None, LiveState),
    "branch": (Branch, None, Nothing),
    "sleep": (Sleep, None, LiveState),
    "state": (Nothing, None, LiveState),
    "list": (ListFiles, None, Files),
    "stat": (StatFile, None, FileEntry),
    "read": (ReadFile, bytes, Read),
    "archive": (Archive, bytes, Read),
    "write": (WriteFile, None, FileEntry),
    "edit": (EditFile, None, Edited),
    "delete": (DeleteFile, None, Nothing),
    "make_directory": (MakeDirectory, None, FileEntry),
    "move": (MoveFile, None, FileEntry),
    "tool_uses": (Nothing, None, ToolUses),
    "decide_tool": (Decide, None, Decided),
}
"""method -> (question, event streamed as Told or None, answer)"""
