"""What each tool takes: one value per tool, the source of its JSON Schema and of the check of its arguments.

A model reads the descriptions, so they say what it needs to decide and nothing else. A wrong argument is refused with a
sentence that begins with its name, before anything is executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from clawplane.domain.errors import InvalidSchema
from clawplane.domain.sessions import DEFAULT_TIMEOUT, MAX_TIMEOUT, Profile

T = TypeVar("T")

MOST_READ: Final = 1 << 20
DEFAULT_READ: Final = 64 << 10

_PLACE: Final = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<where>[^`]*)`$", re.DOTALL)

# `domain.session_rules` judges the values of these, in the words that every interface uses
Timeout = Annotated[
    Any,
    Meta(
        description="Seconds after which the code is stopped; what it printed until then is returned.",
        extra_json_schema={"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT},
    ),
]
_TEXT: Final = {"type": "string"}
_SessionId = Annotated[
    str,
    Meta(
        max_length=64,
        description="The session to work in, as an earlier answer named it. Leave it out to start a new session.",
    ),
]
_Existing = Annotated[str, Meta(min_length=1, max_length=64, description="The session, as an earlier answer named it.")]
_Path = Annotated[
    str, Meta(min_length=1, max_length=4096, description="Path within the workspace, such as `data/table.csv`.")
]
_Folder = Annotated[
    str, Meta(max_length=4096, description="Directory within the workspace; empty for the workspace itself.")
]


class Arguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all tools have in common."""


class ExecutePython(Arguments, frozen=True):
    """Arguments of `execute_python`."""

    code: Annotated[
        Any, Meta(description="Python source. The value of its last expression is a result.", extra_json_schema=_TEXT)
    ]
    timeout: Timeout = DEFAULT_TIMEOUT
    session_id: _SessionId | None = None


class ExecuteShell(Arguments, frozen=True):
    """Arguments of `execute_shell`."""

    command: Annotated[Any, Meta(description="What bash runs, in /workspace.", extra_json_schema=_TEXT)]
    timeout: Timeout = DEFAULT_TIMEOUT
    session_id: _SessionId | None = None


class ExecuteNode(Arguments, frozen=True):
    """Arguments of `execute_node`."""

    code: Annotated[Any, Meta(description="JavaScript for Node.js; `require` works.", extra_json_schema=_TEXT)]
    timeout: Timeout = DEFAULT_TIMEOUT
    session_id: _SessionId | None = None


class ResetRepl(Arguments, frozen=True):
    """Arguments of `reset_repl`."""

    session_id: _SessionId | None = None


class SessionCreate(Arguments, frozen=True):
    """Arguments of `session_create`."""

    profile: Annotated[
        Profile,
        Meta(description="Packages: bare = standard library, data = numpy, pandas, matplotlib, full = many more."),
    ] = "data"
    workspace: (
        Annotated[str, Meta(max_length=100, description="A named workspace to attach; its files outlive sessions.")]
        | None
    ) = None
    name: Annotated[str, Meta(max_length=200, description="What the session is for, shown in lists.")] = ""


class SessionList(Arguments, frozen=True):
    """Arguments of `session_list`."""


class SessionOnly(Arguments, frozen=True):
    """Arguments of the tools that need a session and nothing else."""

    session_id: _Existing


class SessionRollback(Arguments, frozen=True):
    """Arguments of `session_rollback`."""

    session_id: _Existing
    execs: Annotated[int, Meta(ge=1, le=100, description="How many of the last Python executions to undo.")] = 1


class WorkspaceList(Arguments, frozen=True):
    """Arguments of `workspace_list`."""

    path: _Folder = ""
    recursive: bool = False
    session_id: _SessionId | None = None


class WorkspaceRead(Arguments, frozen=True):
    """Arguments of `workspace_read`."""

    path: _Path
    offset: Annotated[int, Meta(ge=0, description="First byte to read.")] = 0
    limit: Annotated[int, Meta(ge=1, le=MOST_READ, description="Most bytes to read.")] = DEFAULT_READ
    encoding: Annotated[
        Literal["text", "base64"],
        Meta(description="text for UTF-8; base64 for anything else. Image files are shown as images."),
    ] = "text"
    session_id: _SessionId | None = None


class WorkspaceWrite(Arguments, frozen=True):
    """Arguments of `workspace_write`."""

    path: _Path
    content: Annotated[
        str,
        Meta(
            description="The whole new content of the file. A request holds 8 MiB unless the operator has set another "
            "bound; write what is longer in pieces, with append."
        ),
    ]
    encoding: Annotated[Literal["text", "base64"], Meta(description="How `content` is written.")] = "text"
    append: Annotated[bool, Meta(description="Add to the end of the file instead of replacing it.")] = False
    session_id: _SessionId | None = None


class WorkspaceEdit(Arguments, frozen=True):
    """Arguments of `workspace_edit`."""

    path: _Path
    old: Annotated[str, Meta(min_length=1, description="The text to replace, exactly as it stands in the file.")]
    new: Annotated[str, Meta(description="The text to put in its place.")]
    everywhere: Annotated[
        bool, Meta(description="Replace every occurrence; otherwise the text must occur exactly once.")
    ] = False
    session_id: _SessionId | None = None


class WorkspaceDelete(Arguments, frozen=True):
    """Arguments of `workspace_delete`."""

    path: _Path
    recursive: Annotated[bool, Meta(description="Delete a directory with everything in it.")] = False
    session_id: _SessionId | None = None


class WorkspaceDownload(Arguments, frozen=True):
    """Arguments of `workspace_download`."""

    path: Annotated[str, Meta(max_length=4096, description="The file; empty for the whole workspace as a ZIP.")] = ""
    session_id: _SessionId | None = None


def parse(arguments: Mapping[str, Any] | None, type_: type[T]) -> T:
    """Return checked arguments; raises InvalidSchema with a sentence that begins with the argument's name."""
    try:
        value = msgspec.convert(dict(arguments or {}), type_)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), type_) from None
    for name in msgspec.structs.asdict(value) if isinstance(value, Struct) else ():
        text = getattr(value, name)
        if isinstance(text, str) and not _is_unicode(text):
            raise InvalidSchema(f"{name}: it holds half of a surrogate pair.", hint="Send text that UTF-8 can hold.")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(reason: str, type_: type[Any]) -> InvalidSchema:
    names = ", ".join(field.name for field in msgspec.structs.fields(type_)) or "nothing"
    hint = f"This tool takes: {names}."
    placed = _PLACE.match(reason)
    if placed is not None and placed["where"]:
        what = placed["what"]
        return InvalidSchema(f"{placed['where']}: {what[:1].lower()}{what[1:]}.", hint=hint)
    for start in ("Object missing required field `", "Object contains unknown field `"):
        if reason.startswith(start):
            name, _, _ = reason.removeprefix(start).partition("`")
            why = "it is missing" if "missing" in start else "this tool takes no such argument"
            return InvalidSchema(f"{name[:80]}: {why}.", hint=hint)
    return InvalidSchema(f"The arguments do not fit: {reason}.", hint=hint)


def schema_of(type_: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a value with its own members at the root, as MCP wants it."""
    whole = msgspec.json.schema(type_)
    definitions = whole.get("$defs", {})
    name = whole["$ref"].rpartition("/")[2]
    root = dict(definitions.pop(name))
    root.pop("title", None)
    root.pop("description", None)
    if definitions:
        root["$defs"] = definitions
    return root
