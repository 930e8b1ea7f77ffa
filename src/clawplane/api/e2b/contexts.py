"""Code contexts: named namespaces of a session, each with a language and a working directory.

A context's id says its language, and for languages without state its directory too, so that code runs in it whatever
replica is asked. The list of contexts lies in the session's own workspace; the guest can write there, so it is read as
hostile: bounded, checked, and believed only for what the list shows to the guest's own owner.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from starlette.responses import Response

from clawplane.api.e2b import paths
from clawplane.api.e2b.answers import as_json, nothing
from clawplane.api.e2b.gate import Visit
from clawplane.domain.asks import Reset, WriteFile
from clawplane.domain.errors import InvalidArgument, NotFound
from clawplane.domain.sessions import Tool

DEFAULT: Final = "default"

_LIST: Final = ".e2b/contexts.json"
_MAX_LIST: Final = 64 << 10
_MOST: Final = 100
_ID: Final = re.compile(r"(python|shell|node)-[0-9a-f]{16}(?:-([A-Za-z0-9_-]{1,1200}))?")
_LANGUAGES: Final[dict[str, Tool]] = {
    "python": "python",
    "py": "python",
    "python3": "python",
    "bash": "shell",
    "shell": "shell",
    "sh": "shell",
    "javascript": "node",
    "js": "node",
    "node": "node",
}
_SHOWN: Final[dict[Tool, str]] = {"python": "python", "shell": "bash", "node": "javascript"}


class Context(msgspec.Struct, frozen=True):
    """A context as clients see it."""

    id: str
    language: str
    cwd: str


class NewContext(msgspec.Struct, frozen=True):
    """The order for a context."""

    language: str | None = None
    cwd: str | None = None


class Place(msgspec.Struct, frozen=True):
    """Where code runs: the tool, the namespace of the session, and the directory below the workspace."""

    tool: Tool
    namespace: str = ""
    directory: str = ""


def tool_of(language: str | None) -> Tool:
    """Return the tool for a language, Python by default; raises InvalidArgument."""
    tool = _LANGUAGES.get((language or "python").lower())
    if tool is None:
        raise InvalidArgument(f"language: {language!r:.60} is not offered.", hint="Use python, bash or javascript.")
    return tool


def place_of(context_id: str) -> Place:
    """Return where the code of a context runs; raises NotFound."""
    if context_id == DEFAULT:
        return Place("python")
    found = _ID.fullmatch(context_id)
    if found is None:
        raise NotFound(f"There is no context {context_id[:80]!r}.", hint="List them with list_code_contexts().")
    tool: Tool = "python" if found[1] == "python" else "shell" if found[1] == "shell" else "node"
    return Place(tool, context_id[:23] if tool == "python" else "", _directory(found[2] or ""))


async def create_context(visit: Visit) -> Response:
    """Make a context and note it in the list."""
    order = await visit.body(NewContext)
    tool = tool_of(order.language)
    directory = paths.inner(order.cwd or "", "cwd")
    if directory and tool == "python":
        raise InvalidArgument(
            "cwd: the Python contexts of a sandbox share one working directory.", hint="Leave it out, or use os.chdir."
        )
    known = await _read(visit)
    if len(known) >= _MOST:
        raise InvalidArgument(f"The sandbox has {_MOST} contexts.", hint="Remove some with remove_code_context().")
    context_id = f"{tool}-{secrets.token_hex(8)}"
    if directory:
        context_id += "-" + base64.urlsafe_b64encode(directory.encode()).rstrip(b"=").decode()
    context = Context(context_id, _SHOWN[tool], paths.outer(directory))
    await _write(visit, [*known, context])
    return as_json(context, status=201)


async def list_contexts(visit: Visit) -> Response:
    """Return the contexts, the default one first."""
    return as_json([Context(DEFAULT, "python", paths.WORKSPACE), *await _read(visit)])


async def remove_context(visit: Visit) -> Response:
    """Forget a context and what it holds."""
    place = place_of(visit.parameters["contextID"])
    if place.tool == "python":
        question = Reset(context=place.namespace, forget_context=bool(place.namespace))
        await visit.house.sessions.reset(visit.caller, visit.session.id, question)
    left = [context for context in await _read(visit) if context.id != visit.parameters["contextID"]]
    await _write(visit, left)
    return nothing()


async def restart_context(visit: Visit) -> Response:
    """Let a context begin anew."""
    place = place_of(visit.parameters["contextID"])
    if place.tool == "python":
        await visit.house.sessions.reset(visit.caller, visit.session.id, Reset(context=place.namespace))
    return nothing()


async def _read(visit: Visit) -> list[Context]:
    """Return the noted contexts; a list that is absent or spoiled counts as empty."""
    data = bytearray()
    try:
        async for chunk in (await (await visit.files()).read(_LIST, limit=_MAX_LIST)).chunks():
            data += chunk
        noted = msgspec.json.decode(data, type=list[Context])
    except (NotFound, InvalidArgument, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    return [context for context in noted[:_MOST] if _ID.fullmatch(context.id)]


async def _write(visit: Visit, contexts: list[Context]) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield msgspec.json.encode(contexts)

    files = await visit.files()
    await files.make_directory(_LIST.partition("/")[0])
    await files.write(WriteFile(path=_LIST), chunks())


def _directory(text: str) -> str:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return paths.inner(raw.decode(), "context")
    except (binascii.Error, UnicodeDecodeError, InvalidArgument):
        raise NotFound("There is no such context.", hint="List them with list_code_contexts().") from None
