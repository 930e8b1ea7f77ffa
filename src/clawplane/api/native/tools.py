"""The tools over plain HTTP: the body is the tool's parameters, the answer is its result.

An exception in the code, a failed command and a timeout are results: HTTP 200, with `error` saying what happened. What
is refused before anything runs has the status that HTTP has for it, and the same three keys.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from typing import Any, Final, Literal
from urllib.parse import quote

from starlette.responses import Response

from clawplane.api.calls import Call, Handler
from clawplane.api.native import session_shapes as shapes
from clawplane.api.native.exec_answers import answer_exec, json_reply, stream_kind
from clawplane.api.native.session_requests import (
    EXEC,
    choice,
    exec_fields,
    fields_of,
    flag,
    number,
    path,
    session_id_of,
    text,
)
from clawplane.domain import asks
from clawplane.domain.errors import InvalidArgument, InvalidSchema, TooLarge
from clawplane.domain.sessions import ExecResult
from clawplane.flows.session_files import FileStream, SessionFiles

MOST_READ: Final = 1 << 20
DEFAULT_READ: Final = 64 << 10
MOST_LISTED: Final = 10_000
_CONTINUATION: Final = range(0x80, 0xC0)
_LARGER: Final = (
    "Send a larger file as the body of PUT /v1/sessions/{id}/files/content, which streams it, or in pieces with "
    "`append`."
)
_CODE: Final = {"python": "code", "shell": "command", "node": "code"}


def execute(tool: Literal["python", "shell", "node"]) -> Handler:
    """Return the operation that executes with a tool."""
    code = _CODE[tool]
    known = (code, "session_id", *EXEC, "stream")

    async def handle(call: Call) -> Response:
        fields = await fields_of(call, known)
        wanted = choice(fields, "stream", ("", "none", "sse", "ndjson"), "none")
        request = call.flows.sessions.request(tool, **exec_fields(fields, code))
        return await answer_exec(call, session_id_of(fields), request, stream_kind(call, wanted))

    return handle


async def reset_repl(call: Call) -> Response:
    """Forget all Python variables and imports."""
    fields = await fields_of(call, ("session_id",))
    sessions, caller = call.flows.sessions, call.caller
    files = await sessions.files(caller, session_id_of(fields))
    await sessions.reset(caller, files.session.id, asks.Reset())
    session = await sessions.find(caller, files.session.id)
    result = ExecResult(exec_id="", session_id=session.id, stdout="Python REPL reset.\n")
    return json_reply(shapes.tool_answer(result, session, call.flows.clock.now_ms()))


async def workspace_list(call: Call) -> Response:
    """List a directory of the workspace."""
    fields = await fields_of(call, ("path", "recursive", "limit", "session_id"))
    question = asks.ListFiles(
        path=path(fields, empty=True),
        recursive=flag(fields, "recursive"),
        limit=number(fields, "limit", 1000, low=1, high=MOST_LISTED),
    )
    return await listed(await _files(call, fields), question)


async def workspace_read(call: Call) -> Response:
    """Read a piece of a file."""
    fields = await fields_of(call, ("path", "offset", "limit", "encoding", "session_id"))
    name = path(fields)
    offset = number(fields, "offset", 0, low=0, high=1 << 53)
    limit = number(fields, "limit", DEFAULT_READ, low=1, high=MOST_READ)
    encoding = choice(fields, "encoding", ("text", "base64"), "text")
    files = await _files(call, fields)
    return json_reply(await read_piece(files, name, offset=offset, limit=limit, encoding=encoding))


async def workspace_write(call: Call) -> Response:
    """Write a file."""
    try:
        fields = await fields_of(call, ("path", "content", "encoding", "append", "create_only", "session_id"))
    except TooLarge as error:
        raise TooLarge(error.message, hint=_LARGER) from None
    question = asks.WriteFile(path=path(fields), append=flag(fields, "append"), create_only=flag(fields, "create_only"))
    content = text(fields, "content", most=None, needed=True)  # as much as its request may hold
    data = _decoded(content) if choice(fields, "encoding", ("text", "base64"), "text") == "base64" else content.encode()
    files = await _files(call, fields)
    entry = await files.write(question, _once(data))
    return json_reply(shapes.FileDone(session_id=files.session.id, file=entry))


async def workspace_edit(call: Call) -> Response:
    """Replace a string in a file, once or everywhere."""
    return await edit(call, None)


async def edit(call: Call, session_id: str | None) -> Response:
    """Replace a string in a file of a session."""
    fields = await fields_of(call, ("path", "old", "new", "everywhere", *(() if session_id else ("session_id",))))
    question = asks.EditFile(
        path=path(fields),
        old=text(fields, "old", needed=True),
        new=text(fields, "new", needed=True),
        everywhere=flag(fields, "everywhere"),
    )
    if not question.old:
        raise InvalidSchema("old: it is empty.", hint="Give the text to replace as it stands in the file.")
    files = await _files(call, fields if session_id is None else {"session_id": session_id})
    edited = await files.edit(question)
    return json_reply(shapes.FileEdited(session_id=files.session.id, path=question.path, replaced=edited.replaced))


async def workspace_delete(call: Call) -> Response:
    """Delete a file or directory."""
    fields = await fields_of(call, ("path", "recursive", "session_id"))
    name, recursive = path(fields), flag(fields, "recursive")
    files = await _files(call, fields)
    await files.delete(name, recursive=recursive)
    return json_reply(shapes.FileDeleted(session_id=files.session.id, path=name))


async def workspace_download(call: Call) -> Response:
    """Say where a file, or all of them as a ZIP, is fetched with the same key."""
    fields = await fields_of(call, ("path", "session_id"))
    name = path(fields, empty=True)
    files = await _files(call, fields)
    entry = await files.stat(name) if name else None
    session = files.session.id
    if entry is None or entry.kind == "directory":
        suffix = f"archive?path={quote(name, safe='')}" if name else "archive"
    else:
        suffix = f"files/content?path={quote(name, safe='')}"
    url = call.url(f"/v1/sessions/{session}/{suffix}")
    size = entry.size if entry is not None and entry.kind == "file" else None
    return json_reply(shapes.FileLink(session_id=session, path=name, url=url, size=size))


# Shared with the routes of sessions


async def listed(files: SessionFiles, question: asks.ListFiles) -> Response:
    """Return a listing."""
    found = await files.list(question)
    return json_reply(shapes.FileListing(session_id=files.session.id, files=found.files, more=found.more))


async def read_piece(files: SessionFiles, name: str, *, offset: int, limit: int, encoding: str) -> shapes.FileText:
    """Return a piece of a file as text or base64; text ends at a whole character."""
    stream = await files.read(name, offset=offset, limit=limit)
    data = await _collected(stream)
    size = (await stream.end()).size
    if encoding == "text":
        data = _whole_characters(data, ends=offset + len(data) >= size)
        content = _as_text(data, name)
    else:
        content = base64.b64encode(data).decode()
    end = offset + len(data)
    return shapes.FileText(
        session_id=files.session.id,
        path=name,
        content=content,
        encoding=encoding,
        offset=offset,
        size=size,
        next_offset=end if data and end < size else None,
    )


async def _files(call: Call, fields: dict[str, Any]) -> SessionFiles:
    return await call.flows.sessions.files(call.caller, session_id_of(fields))


async def _collected(stream: FileStream) -> bytes:
    return b"".join([chunk async for chunk in stream.chunks()])


def _whole_characters(data: bytes, *, ends: bool) -> bytes:
    """Return the bytes without the beginning of a character that the piece cuts at its end."""
    if ends:
        return data
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte in _CONTINUATION:
            continue
        needed = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return data[:-back] if needed > back else data
    return data


def _as_text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"path: {name!r} is no UTF-8 text at byte {error.start} of this piece.",
            hint='Read it with "encoding": "base64", or begin at another offset.',
        ) from None


def _decoded(content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSchema("content: it is no base64.", hint='Use "encoding": "text" for plain text.') from None


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
