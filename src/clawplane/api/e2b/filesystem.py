"""The daemon's remote calls for files: describe, list, make, move and remove below the workspace.

Watching is not offered: a clear error, for calls and streams alike.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from starlette.responses import Response

from clawplane.api.e2b import paths
from clawplane.api.e2b.answers import Exists, as_json, outside
from clawplane.api.e2b.gate import Handler, Visit
from clawplane.domain.asks import ListFiles
from clawplane.domain.errors import InvalidArgument, NotFound, TooLarge
from clawplane.domain.sessions import FileEntry

_MAX_ENTRIES: Final = 10_000
_TYPES: Final = {"directory": "FILE_TYPE_DIRECTORY", "file": "FILE_TYPE_FILE", "link": "FILE_TYPE_SYMLINK"}
_DIRECTORY_MODE, _PROGRAM_MODE, _FILE_MODE = 0o755, 0o755, 0o644


class OnePath(msgspec.Struct, frozen=True):
    """A question about one path."""

    path: str = ""


class Listing(msgspec.Struct, frozen=True):
    """A question for what is in a directory; depth 0 counts as 1."""

    path: str = ""
    depth: int = 1


class Move(msgspec.Struct, frozen=True):
    """A question to rename."""

    source: str = ""
    destination: str = ""


async def stat(visit: Visit) -> Response:
    """Describe a file or directory."""
    question = await visit.call(OnePath)
    return as_json({"entry": entry_of(await _describe(visit, paths.inner(question.path)))})


async def list_directory(visit: Visit) -> Response:
    """List a directory, down to a depth."""
    question = await visit.call(Listing)
    top, depth = paths.inner(question.path), max(1, question.depth)
    if (await _describe(visit, top)).kind != "directory":
        raise InvalidArgument(f"path: {question.path[:200]!r} is no directory.", hint="Read it with files.read().")
    files = await visit.files()
    found = await files.list(ListFiles(path=top, recursive=depth > 1, limit=_MAX_ENTRIES))
    if found.more:
        raise TooLarge(f"There are more than {_MAX_ENTRIES} entries.", hint="List directories below it, one by one.")
    deepest = depth + (top.count("/") + 1 if top else 0)
    return as_json({"entries": [entry_of(item) for item in found.files if item.path.count("/") < deepest]})


async def make_directory(visit: Visit) -> Response:
    """Make a directory and its parents; refused when something is there."""
    path = paths.named((await visit.call(OnePath)).path)
    try:
        await _describe(visit, path)
    except NotFound:
        return as_json({"entry": entry_of(await (await visit.files()).make_directory(path))})
    raise Exists(f"{paths.outer(path)!r} is there already.")


async def move(visit: Visit) -> Response:
    """Rename a file or directory."""
    question = await visit.call(Move)
    source = paths.named(question.source, "source")
    to = paths.named(question.destination, "destination")
    return as_json({"entry": entry_of(await (await visit.files()).move(source, to))})


async def remove(visit: Visit) -> Response:
    """Delete a file, or a directory with all that is in it."""
    path = paths.named((await visit.call(OnePath)).path)
    await (await visit.files()).delete(path, recursive=True)
    return as_json({})


async def watch(visit: Visit) -> Response:
    """Refuse to watch a directory."""
    raise outside("watching directories", "List them, or watch from inside the sandbox.")


HANDLERS: Final[dict[str, Handler]] = {
    "Stat": stat,
    "ListDir": list_directory,
    "MakeDir": make_directory,
    "Move": move,
    "Remove": remove,
    "WatchDir": watch,
    "CreateWatcher": watch,
    "GetWatcherEvents": watch,
    "RemoveWatcher": watch,
}


def entry_of(entry: FileEntry) -> dict[str, Any]:
    """Return an entry as clients read it."""
    is_directory = entry.kind == "directory"
    mode = _DIRECTORY_MODE if is_directory else _PROGRAM_MODE if entry.executable else _FILE_MODE
    path = paths.outer(paths.inner(entry.path))
    return {
        "name": path.rpartition("/")[2],
        "type": _TYPES.get(entry.kind, "FILE_TYPE_UNSPECIFIED"),
        "path": path,
        "size": str(entry.size),
        "mode": mode,
        "permissions": "".join(letter if mode >> (8 - place) & 1 else "-" for place, letter in enumerate("rwxrwxrwx")),
        "owner": "user",
        "group": "user",
        "modifiedTime": datetime.fromtimestamp(entry.modified_at / 1000, UTC).isoformat().replace("+00:00", "Z"),
        "isSymlink": entry.kind == "link",
    }


async def _describe(visit: Visit, path: str) -> FileEntry:
    if not path:
        return FileEntry(path="", kind="directory", modified_at=visit.session.created_at)
    return await (await visit.files()).stat(path)
