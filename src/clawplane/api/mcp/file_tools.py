"""The tools for the workspace, and its files as resources."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final
from urllib.parse import quote

from mcp_types import BlobResourceContents, CallToolResult, ReadResourceResult, ResourceLink, TextResourceContents

from clawplane.api.mcp import answers
from clawplane.api.mcp.arguments import (
    MOST_READ,
    WorkspaceDelete,
    WorkspaceDownload,
    WorkspaceEdit,
    WorkspaceList,
    WorkspaceRead,
    WorkspaceWrite,
)
from clawplane.api.mcp.calls import ToolCall
from clawplane.domain.asks import DeleteFile, Edited, EditFile, Files, ListFiles, Nothing, ReadFile, StatFile, WriteFile
from clawplane.domain.errors import InvalidArgument, InvalidSchema, TooLarge
from clawplane.domain.session_rules import check_path
from clawplane.domain.sessions import FileEntry

_MOST_LISTED: Final = 1000
_MOST_RESOURCE: Final = 8 << 20
_PIECE: Final = 64 << 10
_CONTINUATION: Final = range(0x80, 0xC0)


async def workspace_list(call: ToolCall, given: WorkspaceList) -> CallToolResult:
    """List a directory."""
    session = await call.session(given.session_id)
    question = ListFiles(path=check_path(given.path, empty=True), recursive=given.recursive, limit=_MOST_LISTED)
    found = await call.ask(session.id, "list", question, Files)
    return answers.reply(answers.FilesAnswer(session_id=session.id, files=found.files, more=found.more))


async def workspace_read(call: ToolCall, given: WorkspaceRead) -> CallToolResult:
    """Read a piece of a file; a whole image is attached as one."""
    check_path(given.path)
    session = await call.session(given.session_id)
    entry = await call.ask(session.id, "stat", StatFile(path=given.path), FileEntry)
    if entry.kind != "file":
        raise InvalidArgument(f"path: {given.path!r} is a {entry.kind}, not a file.", hint="Use workspace_list.")
    mime = _mime(given.path)
    if mime.startswith("image/") and given.offset == 0 and entry.size <= _MOST_RESOURCE:
        image = answers.image_block(await _bytes(call, session.id, given.path, 0, entry.size), mime)
        if image is not None:
            seen = answers.ReadAnswer(
                session_id=session.id, path=given.path, size=entry.size, content="", encoding="attached"
            )
            return answers.reply(seen, image)
    content = await _bytes(call, session.id, given.path, given.offset, given.limit)
    if given.encoding == "text":
        content = _whole_characters(content, ends=given.offset + len(content) >= entry.size)
        text = _text(content, given.path)
    else:
        text = base64.b64encode(content).decode()
    end = given.offset + len(content)
    value = answers.ReadAnswer(
        session_id=session.id,
        path=given.path,
        size=entry.size,
        content=text,
        encoding=given.encoding,
        next_offset=end if content and end < entry.size else None,
    )
    return answers.reply(value)


async def workspace_write(call: ToolCall, given: WorkspaceWrite) -> CallToolResult:
    """Write a file."""
    check_path(given.path)
    content = given.content.encode() if given.encoding == "text" else _decoded(given.content)
    session = await call.session(given.session_id)
    question = WriteFile(path=given.path, append=given.append)
    entry = await call.sessions.write(call.caller, session.id, question, _pieces(content))
    return answers.reply(answers.FileAnswer(session_id=session.id, file=entry), _link(session.id, entry))


async def workspace_edit(call: ToolCall, given: WorkspaceEdit) -> CallToolResult:
    """Replace text in a file."""
    check_path(given.path)
    session = await call.session(given.session_id)
    question = EditFile(path=given.path, old=given.old, new=given.new, everywhere=given.everywhere)
    edited = await call.ask(session.id, "edit", question, Edited)
    return answers.reply(answers.EditAnswer(session_id=session.id, path=given.path, replaced=edited.replaced))


async def workspace_delete(call: ToolCall, given: WorkspaceDelete) -> CallToolResult:
    """Delete a file or directory."""
    check_path(given.path)
    session = await call.session(given.session_id)
    await call.ask(session.id, "delete", DeleteFile(path=given.path, recursive=given.recursive), Nothing)
    return answers.reply(answers.Done(session_id=session.id, done=f"deleted {given.path}"))


async def workspace_download(call: ToolCall, given: WorkspaceDownload) -> CallToolResult:
    """Say where a file, or the ZIP of all, is fetched."""
    check_path(given.path, empty=True)
    session = await call.session(given.session_id)
    place = f"{call.base}/v1/sessions/{quote(session.id, safe='')}"
    if not given.path:
        return answers.reply(answers.DownloadAnswer(session_id=session.id, path="", url=f"{place}/archive"))
    entry = await call.ask(session.id, "stat", StatFile(path=given.path), FileEntry)
    if entry.kind != "file":
        url = f"{place}/archive?path={quote(given.path, safe='')}"
        return answers.reply(answers.DownloadAnswer(session_id=session.id, path=given.path, url=url))
    url = f"{place}/files/content?path={quote(given.path, safe='')}"
    value = answers.DownloadAnswer(session_id=session.id, path=given.path, url=url, size=entry.size)
    return answers.reply(value, _link(session.id, entry))


async def read_resource(call: ToolCall, uri: str) -> ReadResourceResult:
    """Return a workspace file that a link names; raises TooLarge above 8 MiB."""
    session_id, path = answers.read_uri(uri)
    check_path(path, "uri")
    entry = await call.ask(session_id, "stat", StatFile(path=path), FileEntry)
    if entry.kind != "file":
        raise InvalidArgument(f"uri: {path!r} is a {entry.kind}, not a file.")
    if entry.size > _MOST_RESOURCE:
        raise TooLarge(
            f"{path!r} has {entry.size} bytes; a resource has at most {_MOST_RESOURCE}.",
            hint="Read it in pieces with workspace_read, or fetch it as workspace_download says.",
        )
    content = await _bytes(call, session_id, path, 0, entry.size)
    mime = _mime(path)
    try:
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=mime, text=content.decode())])
    except UnicodeDecodeError:
        blob = base64.b64encode(content).decode()
        return ReadResourceResult(contents=[BlobResourceContents(uri=uri, mime_type=mime, blob=blob)])


async def _bytes(call: ToolCall, session_id: str, path: str, offset: int, limit: int) -> bytes:
    parts: list[bytes] = []
    held = 0
    question = ReadFile(path=path, offset=offset, limit=limit)
    async with aclosing(call.sessions.read(call.caller, session_id, question)) as chunks:
        async for chunk in chunks:
            parts.append(chunk)
            held += len(chunk)
            if held > max(limit, MOST_READ):
                raise TooLarge(f"{path!r} is longer than it was said to be.", hint="Try again.")
    return b"".join(parts)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


def _whole_characters(content: bytes, *, ends: bool) -> bytes:
    """Leave out the half of a character that the limit has cut, unless the file itself ends so."""
    if not ends:
        for back in range(1, min(4, len(content)) + 1):
            lead = content[-back]
            if lead in _CONTINUATION:
                continue
            width = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return content if width <= back else content[:-back]
    return content


def _text(content: bytes, path: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"path: {path!r} is no UTF-8 text at byte {error.start} of what was read.",
            hint="Read it with encoding base64, or from the offset that an answer named as next_offset.",
        ) from None


def _decoded(content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSchema("content: it is no base64.", hint="Send it as encoding text, or encode it.") from None


def _link(session_id: str, entry: FileEntry) -> ResourceLink:
    return ResourceLink(
        uri=answers.file_uri(session_id, entry.path), name=entry.path, mime_type=_mime(entry.path), size=entry.size
    )


def _mime(path: str) -> str:
    return mimetypes.guess_type(path)[0] or "application/octet-stream"
