"""Code sessions: live sandboxes for agents, and what is executed in them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from clawplane.domain.ids import JobId, RunnerId

Tool = Literal["python", "shell", "node"]
Profile = Literal["bare", "data", "full"]

DEFAULT_TIMEOUT = 30.0
MAX_TIMEOUT = 120.0
DEFAULT_PROFILE: Profile = "data"


class SessionState(StrEnum):
    """Where a session stands."""

    CREATING = "creating"
    RUNNING = "running"
    SLEEPING = "sleeping"
    ENDED = "ended"


class EgressRules(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session may connect to: names, `*.suffix` names, addresses or networks, each with an optional `:port`.

    public: every public address unless denied; listed: only what `allow` names; none: nothing. Deny wins over allow.
    """

    mode: Literal["public", "listed", "none"] = "public"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is created with. Sizes in MB (2^20), times in seconds; 0 for a time means never."""

    profile: Profile = DEFAULT_PROFILE
    workspace: str | None = None
    """A named workspace to attach; None gives one of its own that ends with the session."""
    memory: int = 1024
    cpus: float = 2.0
    processes: int = 256
    disk: int = 1024
    sleep_after: int = 300
    save_after: int = 3600
    """Frozen for this long, its variables go to disk and its memory is given back."""
    expires_after: int = 86_400
    """Idle for this long it is deleted."""
    undo: int = 5
    """Before how many of the last execs `rollback` can go back; each costs a fork of the interpreter."""
    egress: EgressRules = EgressRules()
    environment: dict[str, str] = {}
    metadata: dict[str, str] = {}
    name: str = ""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session as the control plane keeps it. Times in milliseconds."""

    id: str
    owner: str
    state: SessionState
    options: SessionOptions
    job: JobId
    """The job of its present life; a session that was lost or saved gets a new one when it wakes."""
    runner: RunnerId | None = None
    """Where it lives or lived: its workspace and what was saved of it are there."""
    created_at: int
    used_at: int
    sleeps_at: int | None = None
    expires_at: int | None = None
    ended_at: int | None = None
    end_reason: str = ""
    exec_count: int = 0
    lives: int = 1
    """How many jobs it has had."""
    branch_of: str | None = None


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner needs to hold a session; the job's spec. `resume` asks for what is saved of it."""

    session: str
    owner: str
    options: SessionOptions
    resume: bool = False
    branch_of: str | None = None


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of code; `timeout` in seconds, 0 < timeout <= 120.

    context names one of several independent Python namespaces of a session ("" = its own). detached: go on when the
    caller leaves, and for shell and node run beside the session's turns; otherwise a caller that leaves ends the exec,
    and execs take turns. raw: do not shorten the output for language models.
    """

    id: str
    tool: Tool
    code: str
    timeout: float = DEFAULT_TIMEOUT
    context: str = ""
    environment: dict[str, str] = {}
    directory: str = ""
    """Working directory for shell and node, relative to the workspace; Python keeps its own."""
    stdin: str = ""
    detached: bool = False
    raw: bool = False


ExecStatus = Literal["ok", "error", "timeout", "memory", "killed", "cancelled", "exited", "disk"]


class Truncated(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream lost on its way to the answer, and the workspace file that has it all ("" = nowhere)."""

    omitted_bytes: int
    spill: str = ""


class ExecError(msgspec.Struct, frozen=True, kw_only=True):
    """An exception of the code: name, value and traceback lines without any line of ours."""

    name: str
    value: str
    traceback: tuple[str, ...] = ()


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace file that an exec created, changed or deleted; size in bytes."""

    path: str
    op: Literal["created", "changed", "deleted"]
    size: int = 0


class EgressEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to one host and port during an exec, or the refusal of them."""

    host: str
    port: int
    verdict: Literal["allowed", "denied", "failed"]
    connections: int = 1
    sent: int = 0
    received: int = 0
    reason: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an exec used, measured from outside: times in ms, memory and output in bytes."""

    wall_ms: float = 0
    cpu_ms: float = 0
    peak_memory: int = 0
    output_bytes: int = 0


class ExecResult(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an exec. stdout, stderr, error are the contract's three; the rest is beside them.

    status, usage and files are measured by the runner; results, error_detail and the streams are the guest's claims.
    """

    exec_id: str
    session_id: str
    stdout: str = ""
    stderr: str = ""
    error: str | None = None
    status: ExecStatus = "ok"
    execution_count: int = 0
    results: tuple[dict[str, Any], ...] = ()
    """MIME bundles; `text/plain` is always there, binary is base64; the last expression's has "_main": true."""
    error_detail: ExecError | None = None
    exit_code: int | None = None
    truncated: dict[str, Truncated] = {}
    files: tuple[FileChange, ...] = ()
    egress: tuple[EgressEntry, ...] = ()
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    """Plain sentences for the caller: why it was killed and what to do, that the interpreter was replaced, which names
    came back after a wake and which did not."""


class ExecEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of a stream: text of stdout or stderr, a result, a display update, or a sign of life."""

    type: Literal["started", "stdout", "stderr", "result", "display_update", "clear_output", "ping"]
    text: str = ""
    data: dict[str, Any] = {}
    at: int = 0


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner says of a session after each change; times in ms since 1970."""

    state: SessionState
    sleeps_at: int | None = None
    expires_at: int | None = None
    memory: int = 0
    cpu_ms: int = 0
    disk: int = 0
    exec_count: int = 0
    restored: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A file, directory or link of a workspace; `modified_at` in ms."""

    path: str
    kind: Literal["file", "directory", "link", "other"]
    size: int = 0
    modified_at: int = 0
    executable: bool = False
