"""Replace text in a file of a workspace."""

from __future__ import annotations

import os
from typing import Final

from clawplane.domain.errors import Conflict, InvalidArgument, TooLarge
from clawplane.runner.workspace_drafts import Draft
from clawplane.runner.workspace_paths import Parts, join, open_regular

MAX_EDITED: Final = 16 << 20


def replace_text(root: int, parts: Parts, old: str, new: str, *, everywhere: bool, room: int | None) -> int:
    """Replace `old` by `new` and return in how many places; `room` is what the quota leaves, in bytes.

    Raises InvalidArgument for a file that is no text and for an `old` that is empty, absent or not the only one,
    TooLarge, and Conflict when the guest changes the file meanwhile.
    """
    before, after = _encoded(old, "old"), _encoded(new, "new")
    if not before:
        raise InvalidArgument("`old` is empty.", hint="Write the whole file instead.")
    content, found = _content(root, parts)
    places = content.count(before)
    if not places:
        raise InvalidArgument(
            "`old` does not occur in the file.", hint="Read the file: spaces and line ends must be exact."
        )
    if places > 1 and not everywhere:
        raise InvalidArgument(
            f"`old` occurs {places} times.", hint="Give more of what stands around it, or set `everywhere`."
        )
    grown = len(content) + places * (len(after) - len(before))
    if grown > MAX_EDITED:
        raise TooLarge(f"The file would become longer than the {MAX_EDITED >> 20} MB that can be edited.")
    if room is not None and grown > room:
        raise TooLarge("The workspace's quota does not hold the new file.", hint="Delete files.")
    draft = Draft(root, parts)
    try:
        draft.write(content.replace(before, after))
        if _mark(_stat(root, parts)) != _mark(found):
            raise Conflict("The file was changed by somebody else meanwhile.", hint="Read it and try again.")
        draft.publish()
    finally:
        draft.close()
    return places


def _content(root: int, parts: Parts) -> tuple[bytes, os.stat_result]:
    descriptor, found = open_regular(root, join(parts), os.O_RDONLY)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if found.st_size > MAX_EDITED:
            raise TooLarge(f"The file is larger than the {MAX_EDITED >> 20} MB that can be edited.")
        pieces, left = [], MAX_EDITED + 1
        while left and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
    if not left:
        raise TooLarge(f"The file is larger than the {MAX_EDITED >> 20} MB that can be edited.")
    content = b"".join(pieces)
    if b"\0" in content or not _is_text(content):
        raise InvalidArgument("`path` is no text file (UTF-8).", hint="Write the whole file instead.")
    return content, found


def _stat(root: int, parts: Parts) -> os.stat_result:
    descriptor, found = open_regular(root, join(parts), os.O_RDONLY)
    os.close(descriptor)
    return found


def _mark(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_ctime_ns


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encoded(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"`{field}` contains a lone surrogate, which is no text.") from None
