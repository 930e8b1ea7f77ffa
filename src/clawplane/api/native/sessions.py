"""Sessions over plain HTTP: life, execs with streams, history, notebook, files."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call, Parameter
from clawplane.api.native import session_shapes as shapes
from clawplane.api.native import tools
from clawplane.api.native.exec_answers import answer_exec, json_reply, stream_kind
from clawplane.api.native.session_requests import (
    EXEC,
    OPTIONS,
    choice,
    exec_fields,
    fields_of,
    flag,
    number,
    options_of,
    path,
    text,
    tool_of,
)
from clawplane.api.pages import page_of
from clawplane.domain import asks
from clawplane.domain import session_rules as rules
from clawplane.domain.errors import InvalidSchema
from clawplane.domain.sessions import LiveState, Session, SessionState
from clawplane.flows.session_files import SessionFiles

_OCTETS: Final = "application/octet-stream"
_LIVE: Final = "live"

STATE: Final = Parameter(
    name="state",
    kind="string",
    description="Only sessions in this state; live: all that have not ended.",
    choices=(*(state.value for state in SessionState), _LIVE),
)
NAME: Final = Parameter(name="name", kind="string", description="Only the sessions of this name.")
PATH: Final = Parameter(name="path", kind="string", description="A path within the workspace.")
RECURSIVE: Final = Parameter(name="recursive", kind="boolean", description="With everything below.")
MOST: Final = Parameter(
    name="limit", kind="integer", description="How many entries.", default=1000, minimum=1, maximum=tools.MOST_LISTED
)
OFFSET: Final = Parameter(name="offset", kind="integer", description="First byte.", default=0, minimum=0)
BYTES: Final = Parameter(name="limit", kind="integer", description="Most bytes; all by default.", minimum=1)
ENCODING: Final = Parameter(
    name="encoding",
    kind="string",
    description="raw: the bytes; text or base64: JSON with a piece of the file.",
    default="raw",
    choices=("raw", "text", "base64"),
)
APPEND: Final = Parameter(name="append", kind="boolean", description="Add to the end of the file.")
CREATE_ONLY: Final = Parameter(name="create_only", kind="boolean", description="Refuse when the file exists.")


# Life


async def create_session(call: Call) -> Response:
    """Create a session, or return the live one of the same name."""
    options = options_of(await fields_of(call, OPTIONS))
    session = await call.flows.sessions.create(call.caller, options)
    return _session(call, session, status=201)


async def list_sessions(call: Call) -> Response:
    """Return one page of the caller's sessions."""
    page = page_of(call)
    state = call.text("state")
    if state and state not in STATE.choices:
        raise InvalidSchema(f"state: {state[:40]!r} is no state.", hint=f"Use one of {', '.join(STATE.choices)}.")
    count, found = await call.flows.sessions.page(
        call.caller,
        state=SessionState(state) if state and state != _LIVE else None,
        ended=state != _LIVE,
        name=call.text("name"),
        limit=page.limit,
        offset=page.skip,
    )
    return json_reply(shapes.SessionList(count=count, sessions=[_body(call, session) for session in found]))


async def get_session(call: Call) -> Response:
    """Return a session as it stands; this does not wake it."""
    return _session(call, await _found(call))


async def delete_session(call: Call) -> Response:
    """End a session and delete its own workspace; a named one stays."""
    return _session(call, await call.flows.sessions.delete(call.caller, _id(call)))


async def interrupt(call: Call) -> Response:
    """Interrupt an exec, or whatever runs."""
    fields = await fields_of(call, ("exec_id",))
    await call.flows.sessions.interrupt(call.caller, _id(call), text(fields, "exec_id", most=64))
    return json_reply(shapes.Done())


async def reset(call: Call) -> Response:
    """Replace the interpreter of a session, or of one of its contexts; files stay."""
    fields = await fields_of(call, ("context", "forget_context"))
    question = asks.Reset(
        context=rules.check_context(fields.get("context", "")), forget_context=flag(fields, "forget_context")
    )
    return await _live(call, await call.flows.sessions.reset(call.caller, _id(call), question))


async def rollback(call: Call) -> Response:
    """Go back to before some of the last Python execs, or to before one of them."""
    fields = await fields_of(call, ("execs", "before"))
    if "execs" in fields and "before" in fields:
        raise InvalidSchema("before: it says the same as `execs`.", hint="Send one of the two.")
    question = asks.Rollback(execs=number(fields, "execs", 1, low=1, high=100), before=text(fields, "before", most=64))
    return await _live(call, await call.flows.sessions.rollback(call.caller, _id(call), question))


async def branch(call: Call) -> Response:
    """Make a new session, an independent copy of the live interpreter."""
    fields = await fields_of(call, ("name",))
    copy = await call.flows.sessions.branch(call.caller, _id(call), name=rules.check_name(fields.get("name", "")))
    return _session(call, copy, status=201)


async def sleep(call: Call) -> Response:
    """Let a session sleep: frozen in memory, or with `save` on disk."""
    fields = await fields_of(call, ("save",))
    return await _live(call, await call.flows.sessions.sleep(call.caller, _id(call), save=flag(fields, "save")))


# Execs


async def exec_code(call: Call) -> Response:
    """Execute code in a session; the answer comes in one piece or as a stream."""
    fields = await fields_of(call, ("code", "tool", "language", *EXEC, "stream"))
    wanted = choice(fields, "stream", ("", "none", "sse", "ndjson"), "")
    request = call.flows.sessions.request(tool_of(fields), **exec_fields(fields))
    return await answer_exec(call, _id(call), request, stream_kind(call, wanted))


async def list_execs(call: Call) -> Response:
    """Return one page of a session's history, newest first."""
    page = page_of(call)
    count, found = await call.flows.sessions.execs(call.caller, _id(call), limit=page.limit, offset=page.skip)
    return json_reply(shapes.ExecList(count=count, execs=found))


async def get_notebook(call: Call) -> Response:
    """Return a session's history as a Jupyter notebook."""
    session = await _found(call)
    headers = {"Content-Disposition": f'attachment; filename="session-{session.id}.ipynb"'}
    body = shapes.encode(await call.flows.sessions.notebook(call.caller, session.id))
    return Response(body, media_type="application/x-ipynb+json", headers=headers)


# Files


async def list_files(call: Call) -> Response:
    """List a directory of the workspace."""
    limit = call.number("limit", 1000, low=1, high=tools.MOST_LISTED) or 1000
    question = asks.ListFiles(path=_path(call, empty=True), recursive=call.flag("recursive"), limit=limit)
    return await tools.listed(await _files(call), question)


async def stat_file(call: Call) -> Response:
    """Describe one entry of the workspace."""
    files = await _files(call)
    return json_reply(shapes.FileDone(session_id=files.session.id, file=await files.stat(_path(call))))


async def read_file(call: Call) -> Response:
    """Return a file's bytes, or a piece of it as text or base64 in JSON."""
    name = _path(call)
    encoding = call.text("encoding", "raw")
    if encoding not in ENCODING.choices:
        raise InvalidSchema("encoding: it is none of raw, text, base64.", hint="Use raw, text or base64.")
    offset = call.number("offset", 0, low=0, high=1 << 53) or 0
    limit = call.number("limit", None, low=1, high=1 << 53)
    files = await _files(call)
    if encoding != "raw":
        most = min(limit or tools.DEFAULT_READ, tools.MOST_READ)
        return json_reply(await tools.read_piece(files, name, offset=offset, limit=most, encoding=encoding))
    stream = await files.read(name, offset=offset, limit=limit)
    return replies.stream(call, stream.chunks(), media_type=_OCTETS, headers=_download(name.rpartition("/")[2]))


async def write_file(call: Call) -> Response:
    """Write a file from the request's body; it changes when the last byte came."""
    call.request.scope["clawplane.body"].expect_upload()
    question = asks.WriteFile(path=_path(call), append=call.flag("append"), create_only=call.flag("create_only"))
    files = await _files(call)
    entry = await files.write(question, call.request.stream())
    return json_reply(shapes.FileDone(session_id=files.session.id, file=entry), status=201)


async def edit_file(call: Call) -> Response:
    """Replace a string in a file, once or everywhere."""
    return await tools.edit(call, _id(call))


async def delete_file(call: Call) -> Response:
    """Delete a file or, with `recursive`, a directory."""
    name = _path(call)
    files = await _files(call)
    await files.delete(name, recursive=call.flag("recursive"))
    return json_reply(shapes.FileDeleted(session_id=files.session.id, path=name))


async def move_file(call: Call) -> Response:
    """Rename within the workspace."""
    fields = await fields_of(call, ("path", "to"))
    name, to = path(fields), path(fields, "to")
    files = await _files(call)
    return json_reply(shapes.FileDone(session_id=files.session.id, file=await files.move(name, to)))


async def make_directory(call: Call) -> Response:
    """Make a directory and its parents."""
    name = path(await fields_of(call, ("path",)))
    files = await _files(call)
    return json_reply(shapes.FileDone(session_id=files.session.id, file=await files.make_directory(name)), status=201)


async def archive(call: Call) -> Response:
    """Return the workspace, or a directory of it, as a ZIP."""
    name = _path(call, empty=True)
    files = await _files(call)
    stream = await files.archive(name)
    filename = f"{name.strip('/').rpartition('/')[2] or 'workspace'}.zip"
    return replies.stream(call, stream.chunks(), media_type="application/zip", headers=_download(filename))


# Pieces


def _id(call: Call) -> str:
    return call.path("sessionId")


def _path(call: Call, *, empty: bool = False) -> str:
    return rules.check_path(call.path_within(), empty=empty)


async def _found(call: Call) -> Session:
    return await call.flows.sessions.find(call.caller, _id(call))


async def _files(call: Call) -> SessionFiles:
    return await call.flows.sessions.files(call.caller, _id(call))


def _body(call: Call, session: Session) -> shapes.SessionBody:
    sessions = call.flows.sessions
    return shapes.session_body(session, sessions.live(session), sessions.executing(session))


def _session(call: Call, session: Session, *, status: int = 200) -> Response:
    return json_reply(_body(call, session), status=status)


async def _live(call: Call, live: LiveState) -> Response:
    """Return a session whose runner has just said how it stands."""
    sessions = call.flows.sessions
    session = await _found(call)
    return json_reply(shapes.session_body(_with(session, live), live, sessions.executing(session)))


def _with(session: Session, live: LiveState) -> Session:
    return msgspec.structs.replace(session, state=live.state, sleeps_at=live.sleeps_at, expires_at=live.expires_at)


def _download(name: str) -> dict[str, str]:
    safe = "".join(char if char.isascii() and (char.isalnum() or char in "._- ") else "_" for char in name) or "file"
    return {"Content-Disposition": f'attachment; filename="{safe}"', "Cache-Control": "no-store"}
