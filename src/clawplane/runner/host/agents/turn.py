"""One turn of a conversation with an agent CLI: what it is given, and what it needs from the runner around it.

The adapters start no process and open no link themselves. Whoever runs them hands in how programs are started
(`Spawn`) and what is to be told while one runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from clawplane.domain.clock import Clock
from clawplane.domain.host_tasks import HostSpec
from clawplane.domain.task_api_variables import clamped
from clawplane.runner.host.agents.events import AgentEvent
from clawplane.runner.host.stopping import Stop

_TEMPORARY: Final = Path("/tmp")  # noqa: S108 - the contract's own default, whatever TMPDIR says

Heard = Callable[[str, str], None]
"""Takes a stream (stdout, stderr) and what it says, as it arrives: decoded, all of it, in any pieces; must not wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A program to be run; argv[0] is a path. `seconds`: how long it may take before its whole tree is ended."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    stdin: bytes
    """Written whole and then closed; a program that does not read it must not fail for that."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended: its exit code, 128 + signal with the signal's name, or -1 for time-out and failed start.

    stdout and stderr are what was kept of the output, possibly cut with a mark.
    """

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    signal: str | None = None
    timed_out: bool = False
    stopped: bool = False
    """Whether it was ended because the task is to end."""
    error: str | None = None
    """The system's own words when the program could not be started."""


class Spawn(Protocol):
    """Runs one program in a process group of its own until nothing of it runs any more; see spawning.py."""

    async def __call__(self, launch: Launch, heard: Heard) -> Ended:
        """Return when the program has ended and all its output was heard; raises nothing but CancelledError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAsk:
    """A tool that an agent wants to use, for a person's eyes; `detail` is the tool's input as bounded JSON text."""

    tool: str
    detail: str
    cwd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAnswer:
    """A person's answer; `reason` is told to the agent."""

    allowed: bool
    reason: str = ""


AskPerson = Callable[[ToolAsk], Awaitable[ToolAnswer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentContext:
    """What surrounds one task.

    cwd: the task's own directory, or the home directory. env: the child's whole environment, already scrubbed.
    tell: live output for people. told: structured events. bind: the provider's id of this conversation, called as soon
    as it is known, possibly more than once. ask: None when nobody can be asked about tool uses.
    """

    spec: HostSpec
    cwd: str
    env: Mapping[str, str]
    spawn: Spawn
    clock: Clock
    tell: Callable[[str, str], None]
    told: Callable[[AgentEvent], None]
    bind: Callable[[str], None]
    stop: Stop
    ask: AskPerson | None = None
    may_start_in: Callable[[str], bool] = lambda cwd: True
    """Whether the operator lets programs start in a directory that a conversation belongs to."""
    channel: str | None = None
    """Where the callback goes; kept beside the conversation's id in the session cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What an operator decides about agent CLIs; the environment's names are in brackets.

    programs: names or paths by CLI (CLAUDE_PATH, CODEX_PATH, GEMINI_PATH). models: candidates by CLI as a comma list
    (CC_MODELS, CC_MODEL). gemini_hint: "off", "" for the built-in one, or a text (GEMINI_REPLY_HINT).
    """

    private: Path
    """A directory of this runner's own, mode 0700, with a short path: sockets and settings of running tasks."""
    programs: Mapping[str, str]
    models: Mapping[str, str]
    claude_projects: Path
    codex_sessions: Path
    gemini_home: Path
    session_cache: Path
    session_retention_ms: int = 1_800_000
    live_log: Path | None = None
    gemini_hint: str = ""
    help_seconds: float = 30.0
    """How long a CLI may take to print its help; a cold start of a Node program on a busy machine takes seconds."""


def settings_from(env: Mapping[str, str], *, home: Path, private: Path) -> AgentSettings:
    """Read the runner's environment (CLAUDE_PATH ... RUNNER_SESSION_RETENTION_MS) with the defaults of the contract."""
    return AgentSettings(
        private=private,
        programs={cli: env.get(f"{cli.upper()}_PATH") or cli for cli in ("claude", "codex", "gemini")},
        models={"claude": env.get("CC_MODELS") or env.get("CC_MODEL") or ""},
        claude_projects=Path(env.get("CLAUDE_PROJECTS_DIR") or home / ".claude" / "projects"),
        codex_sessions=Path(env.get("CODEX_SESSIONS_DIR") or home / ".codex" / "sessions"),
        gemini_home=home / ".gemini",
        session_cache=Path(env.get("RUNNER_SESSION_CACHE_FILE") or _TEMPORARY / "openclaw-runner-session-cache.json"),
        session_retention_ms=clamped(env, "RUNNER_SESSION_RETENTION_MS", 1_800_000, 60_000, 2_592_000_000),
        live_log=Path(env.get("CC_LOG_PATH") or _TEMPORARY / "cc-live.log"),
        gemini_hint=env.get("GEMINI_REPLY_HINT") or "",
    )
