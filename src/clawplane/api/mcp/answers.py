"""What the tools answer: a value for programs, the same as JSON text for models that see nothing else, and attachments.

Results of code are claims of a guest. Images are attached when they are what they say they are; of everything else only
short text is passed on, and what is left out is named with its size, so that no answer floods a model's context.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent
from msgspec import Struct

from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.domain.sessions import (
    EgressEntry,
    ExecError,
    ExecResult,
    ExecStatus,
    FileChange,
    FileEntry,
    Session,
    SessionState,
    Truncated,
    Usage,
)

_TEXTS: Final = ("text/plain", "text/markdown", "text/latex", "application/json")
_IMAGES: Final = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
_MOST_TEXT: Final = 32 << 10
_MOST_IMAGE: Final = 8 << 20
_MOST_IMAGES: Final = 10
_MOST_LINKS: Final = 20
_SCHEME: Final = "clawplane://sessions/"
FILE_TEMPLATE: Final = _SCHEME + "{session}/files/{+path}"


class SessionTimes(Struct, frozen=True, kw_only=True):
    """How the session stands; times in ms since 1970."""

    state: SessionState
    sleeps_at: int | None = None
    expires_at: int | None = None


class Shown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One result: its short texts by MIME type, which images are attached, and what was left out with its size."""

    texts: dict[str, str] = {}
    attached: tuple[str, ...] = ()
    omitted: dict[str, int] = {}
    main: bool = False


class CodeAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of execute_* and reset_repl; `error` is null on success."""

    stdout: str
    stderr: str
    error: str | None
    session_id: str
    exec_id: str = ""
    status: ExecStatus = "ok"
    execution_count: int = 0
    results: tuple[Shown, ...] = ()
    error_detail: ExecError | None = None
    exit_code: int | None = None
    truncated: dict[str, Truncated] = {}
    files: tuple[FileChange, ...] = ()
    egress: tuple[EgressEntry, ...] = ()
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    session: SessionTimes | None = None


class SessionAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One session; times in ms since 1970, sizes in bytes."""

    session_id: str
    state: SessionState
    name: str = ""
    profile: str = ""
    workspace: str | None = None
    created_at: int = 0
    used_at: int = 0
    sleeps_at: int | None = None
    expires_at: int | None = None
    exec_count: int = 0
    branch_of: str | None = None
    memory: int = 0
    disk: int = 0
    restored: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class SessionsAnswer(Struct, frozen=True, kw_only=True):
    """The caller's sessions, newest first; `more` when the list was cut."""

    sessions: tuple[SessionAnswer, ...]
    more: bool = False


class Done(Struct, frozen=True, kw_only=True):
    """What was done, and in which session."""

    session_id: str
    done: str


class FilesAnswer(Struct, frozen=True, kw_only=True):
    """A listing; `more` when it was cut."""

    session_id: str
    files: tuple[FileEntry, ...]
    more: bool = False


class FileAnswer(Struct, frozen=True, kw_only=True):
    """A file that was written."""

    session_id: str
    file: FileEntry


class EditAnswer(Struct, frozen=True, kw_only=True):
    """How many places of a file changed."""

    session_id: str
    path: str
    replaced: int


class ReadAnswer(Struct, frozen=True, kw_only=True):
    """A piece of a file; `next_offset` is null at its end. An image that is attached has no content here."""

    session_id: str
    path: str
    size: int
    content: str
    encoding: str
    next_offset: int | None = None


class DownloadAnswer(Struct, frozen=True, kw_only=True):
    """Where a file or the ZIP of a workspace is fetched over HTTP with the same key as this call."""

    session_id: str
    path: str
    url: str
    size: int | None = None


def times_of(session: Session) -> SessionTimes:
    """Return when a session sleeps and expires."""
    return SessionTimes(state=session.state, sleeps_at=session.sleeps_at, expires_at=session.expires_at)


def file_uri(session_id: str, path: str) -> str:
    """Return the resource address of a workspace file."""
    return f"{_SCHEME}{quote(session_id, safe='')}/files/{quote(path)}"


def read_uri(uri: str) -> tuple[str, str]:
    """Return the session and the path that a resource address names; raises InvalidArgument."""
    session, found, path = uri.removeprefix(_SCHEME).partition("/files/")
    if not uri.startswith(_SCHEME) or not found or not session or not path or "/" in session:
        raise InvalidArgument(f"uri: {uri[:200]!r} names no workspace file.", hint=f"Use {_SCHEME}SESSION/files/PATH.")
    return unquote(session), unquote(path)


def reply(value: Struct, *attached: ContentBlock, error: bool = False) -> CallToolResult:
    """Return a value as structured content with its JSON as text, and what is attached to it."""
    return CallToolResult(
        content=[TextContent(text=msgspec.json.encode(value).decode()), *attached],
        structured_content=msgspec.to_builtins(value),
        is_error=error,
    )


def refusal(error: ClawplaneError, *, session_id: str = "", as_code: bool = False) -> CallToolResult:
    """Return a call that was refused; `as_code` in the form in which all code tools answer."""
    text = " ".join(part for part in (error.message, error.hint) if part).encode("utf-8", "replace").decode()
    if not as_code:
        return CallToolResult(content=[TextContent(text=text)], is_error=True)
    return reply(CodeAnswer(stdout="", stderr="", error=text, session_id=session_id, status="error"), error=True)


def code_reply(result: ExecResult, session: Session) -> CallToolResult:
    """Return the result of an exec with its images and links to the files it changed or spilled to."""
    images: list[ImageContent] = []
    shown = tuple(_shown(bundle, images) for bundle in result.results)
    members = msgspec.structs.asdict(result)
    detail = result.error_detail  # its lines are in stderr; a model need not read them twice
    members.update(
        results=shown,
        session=times_of(session),
        error_detail=None if detail is None else ExecError(name=detail.name, value=detail.value),
    )
    value = CodeAnswer(**members)
    return reply(value, *images, *_links(result), error=result.error is not None or result.status != "ok")


def image_block(content: bytes, mime: str) -> ImageContent | None:
    """Return an image as content, or None when it is not what `mime` says or too large."""
    if len(content) > _MOST_IMAGE or not content.startswith(_IMAGES.get(mime, ())):
        return None
    return ImageContent(data=base64.b64encode(content).decode(), mime_type=mime)


def _shown(bundle: Mapping[str, Any], images: list[ImageContent]) -> Shown:
    texts: dict[str, str] = {}
    attached: list[str] = []
    omitted: dict[str, int] = {}
    for mime, value in bundle.items():
        if mime.startswith("_") or "/" not in mime or len(mime) > 100:
            continue
        text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
        if mime in _IMAGES and len(images) < _MOST_IMAGES and (image := _image(mime, text)) is not None:
            images.append(image)
            attached.append(mime)
        elif mime in _TEXTS and len(text) <= _MOST_TEXT:
            texts[mime] = text
        else:
            omitted[mime] = len(text)
    return Shown(texts=texts, attached=tuple(attached), omitted=omitted, main=bundle.get("_main") is True)


def _image(mime: str, text: str) -> ImageContent | None:
    try:
        return image_block(base64.b64decode(text, validate=False), mime)
    except (binascii.Error, ValueError):
        return None


def _links(result: ExecResult) -> list[ResourceLink]:
    spills = [cut.spill for cut in result.truncated.values() if cut.spill]
    changed = [change.path for change in result.files if change.op != "deleted"]
    paths = list(dict.fromkeys([*spills, *changed]))[:_MOST_LINKS]
    return [ResourceLink(uri=file_uri(result.session_id, path), name=path) for path in paths]
