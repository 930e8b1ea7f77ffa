"""The bodies of sessions, execs and workspaces, as they are sent: without an envelope. Times in milliseconds."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from clawplane.domain.session_history import ExecRecord, Workspace
from clawplane.domain.sessions import (
    DEFAULT_TIMEOUT,
    MAX_TIMEOUT,
    EgressRules,
    ExecResult,
    FileEntry,
    LiveState,
    Profile,
    Session,
    SessionOptions,
    SessionState,
    Tool,
)


class Standing(Struct, frozen=True, kw_only=True):
    """How a session stands behind an answer: when it will sleep and when it expires, if nobody uses it."""

    state: SessionState
    sleeps_at: int | None
    expires_at: int | None


class ToolAnswer(ExecResult, frozen=True, kw_only=True):
    """What an exec answers: stdout, stderr, error, and the rest."""

    session: Standing


class SessionBody(Struct, frozen=True, kw_only=True):
    """A session."""

    id: str
    name: str
    owner: str
    state: SessionState
    profile: Profile
    workspace: str | None
    runner: str | None
    created_at: int
    used_at: int
    sleeps_at: int | None
    expires_at: int | None
    ended_at: int | None
    end_reason: str
    exec_count: int
    executing: int
    """Execs under way or queued."""
    lives: int
    branch_of: str | None
    options: SessionOptions
    usage: UsageBody
    restored: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class UsageBody(Struct, frozen=True, kw_only=True):
    """What a live session uses, as its runner last measured: bytes and ms of CPU."""

    memory: int = 0
    cpu_ms: int = 0
    disk: int = 0


class SessionList(Struct, frozen=True, kw_only=True):
    """One page of sessions, newest first."""

    count: int
    sessions: list[SessionBody]


class ExecList(Struct, frozen=True, kw_only=True):
    """One page of a session's history, newest first."""

    count: int
    execs: list[ExecRecord]


class FileListing(Struct, frozen=True, kw_only=True):
    """A listing of the workspace; `more` when it was cut."""

    session_id: str
    files: tuple[FileEntry, ...]
    more: bool
    error: None = None


class FileText(Struct, frozen=True, kw_only=True):
    """A piece of a file; `next_offset` (bytes) when there is more."""

    session_id: str
    path: str
    content: str
    encoding: str
    offset: int
    size: int
    next_offset: int | None
    error: None = None


class FileDone(Struct, frozen=True, kw_only=True):
    """A file that was written, made or moved."""

    session_id: str
    file: FileEntry
    error: None = None


class FileEdited(Struct, frozen=True, kw_only=True):
    """How many places of a file changed."""

    session_id: str
    path: str
    replaced: int
    error: None = None


class FileDeleted(Struct, frozen=True, kw_only=True):
    """What was deleted."""

    session_id: str
    path: str
    deleted: bool = True
    error: None = None


class FileLink(Struct, frozen=True, kw_only=True):
    """Where a file, or the ZIP of a directory, is fetched with the same key."""

    session_id: str
    path: str
    url: str
    size: int | None = None
    error: None = None


class WorkspaceList(Struct, frozen=True, kw_only=True):
    """The caller's named workspaces."""

    workspaces: list[Workspace]


class RunnerCapabilities(Struct, frozen=True, kw_only=True):
    """A runner that holds sessions."""

    id: str
    name: str
    connected: bool
    draining: bool
    slots: int
    labels: dict[str, str]


class Capabilities(Struct, frozen=True, kw_only=True):
    """What sessions can be here; `ready` when one can be created now. Times in seconds."""

    ready: bool
    runners: list[RunnerCapabilities]
    tools: tuple[str, ...] = ("python", "shell", "node")
    profiles: tuple[str, ...] = ("bare", "data", "full")
    default_timeout: float = DEFAULT_TIMEOUT
    max_timeout: float = MAX_TIMEOUT
    defaults: SessionOptions = SessionOptions()


class Done(Struct, frozen=True, kw_only=True):
    """It is done."""

    done: bool = True


class CreateSession(Struct, frozen=True, kw_only=True):
    """Options of a new session; sizes in MB (2^20), times in seconds, 0 for never."""

    name: str = ""
    profile: Profile = "data"
    workspace: str | None = None
    memory: int = 1024
    cpus: float = 2.0
    processes: int = 256
    disk: int = 1024
    sleep_after: int = 300
    save_after: int = 3600
    expires_after: int = 86_400
    undo: int = 5
    egress: EgressRules = EgressRules()
    environment: dict[str, str] = {}
    metadata: dict[str, str] = {}


class ExecBody(Struct, frozen=True, kw_only=True):
    """One exec; `timeout` in seconds, above 0 and up to 120."""

    code: str
    tool: Tool = "python"
    timeout: float = 30.0
    context: str = ""
    environment: dict[str, str] = {}
    directory: str = ""
    stdin: str = ""
    detached: bool = False
    raw: bool = False
    stream: str = "none"


def session_body(session: Session, live: LiveState | None, executing: int) -> SessionBody:
    """Return a session as it is shown."""
    state = live or LiveState(state=session.state)
    usage = UsageBody(memory=state.memory, cpu_ms=state.cpu_ms, disk=state.disk)
    shared = {
        name: getattr(session, name)
        for name in (
            "id",
            "owner",
            "state",
            "runner",
            "created_at",
            "used_at",
            "sleeps_at",
            "expires_at",
            "ended_at",
            "end_reason",
            "exec_count",
            "lives",
            "branch_of",
            "options",
        )
    }
    return SessionBody(
        **shared,
        name=session.options.name,
        profile=session.options.profile,
        workspace=session.options.workspace,
        executing=executing,
        usage=usage,
        restored=state.restored,
        lost=state.lost,
    )


def tool_answer(result: ExecResult, session: Session, now: int) -> ToolAnswer:
    """Return an exec's result with when its session will sleep and expire, used just `now` (ms)."""
    options = session.options
    standing = Standing(
        state=SessionState.RUNNING,
        sleeps_at=now + options.sleep_after * 1000 if options.sleep_after else None,
        expires_at=now + options.expires_after * 1000 if options.expires_after else session.expires_at,
    )
    fields: dict[str, Any] = {name: getattr(result, name) for name in result.__struct_fields__}
    return ToolAnswer(**(fields | {"session_id": session.id, "session": standing}))


def encode(body: object) -> bytes:
    """Return a body as JSON."""
    return msgspec.json.encode(body)
