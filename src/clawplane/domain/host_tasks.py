"""Host tasks: one command, file operation or AI CLI prompt for a machine that somebody owns.

A host task is a job of kind `host`. What it asks for is one of the `Work` values; everything else about it (when,
where, by whose leave, for which conversation) is the same for all. The Task API's wire form is the edge's business.

    pending --(approval given, head of its session, due)--> ready in the queue --claim--> running --> completed | failed

Agent tasks of one conversation run one after the other: `session_key` names the conversation, and only its oldest
unfinished task is in the queue. See docs/flows/host-tasks.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal, NewType
from urllib.parse import quote, unquote

import msgspec

from clawplane.domain.ids import JobId

ParcelKind = Literal["chat", "webhook", "chat-question", "webhook-question"]
"""Where a message goes; a question holds a link by which whoever reads it decides."""

TaskId = NewType("TaskId", str)
"""`^[\\w-]{1,200}$`; those made here are UUIDs of version 4."""

MIN_TIMEOUT_MS: Final = 1_000
MAX_TIMEOUT_MS: Final = 86_400_000
RUNNER_TIMEOUT_MS: Final = 600_000
"""How long a task may run that names no time-out."""
AGENT_GRACE_MS: Final = 30_000
"""What agent CLIs get beyond their time-out to end in peace."""
LEASE_GRACE_MS: Final = 60_000
"""What a lease lasts beyond what the runner allows itself."""
HOST_SILENCE_MS: Final = 90_000
"""A runner silent for this long has lost its host tasks; a cut shorter than that changes nothing."""
HOST_SELF_STOP_MS: Final = 80_000
"""A runner that could reach nobody for this long ends its host tasks, before others can have been given them."""
PRIORITY_STEP_MS: Final = 600_000
"""One step of priority is worth this much waiting, so that nothing starves."""
MOST_PRIORITY: Final = 100
_UNQUOTED: Final = " !$&'()*+-./:;<>?@[]^_`{|}~"


class TaskType(StrEnum):
    """What a task is, as the Task API spells it."""

    COMMAND = "command"
    FILE_WRITE = "file-write"
    FILE_READ = "file-read"
    FILE_EDIT = "file-edit"
    CLAUDE = "claude-cli"
    CODEX = "codex-cli"
    GEMINI = "gemini-cli"

    @property
    def group(self) -> str:
        """The capability that a runner needs for it: command, files, claude, codex or gemini."""
        return _GROUPS[self]

    @property
    def agent(self) -> bool:
        """Tell whether this is an AI CLI, whose tasks belong to conversations."""
        return self in _AGENTS


_AGENTS: Final = frozenset({TaskType.CLAUDE, TaskType.CODEX, TaskType.GEMINI})
_GROUPS: Final = {
    TaskType.COMMAND: "command",
    TaskType.FILE_WRITE: "files",
    TaskType.FILE_READ: "files",
    TaskType.FILE_EDIT: "files",
    TaskType.CLAUDE: "claude",
    TaskType.CODEX: "codex",
    TaskType.GEMINI: "gemini",
}
GROUPS: Final = ("command", "files", "claude", "codex", "gemini")


class TaskStatus(StrEnum):
    """A task's state, as the Task API shows it; why a pending one waits is said by `explain`."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Tell whether a result is there."""
        return self in (TaskStatus.COMPLETED, TaskStatus.FAILED)


class OnLoss(StrEnum):
    """What becomes of a running task whose runner is lost, or whose server starts anew under a mere poller."""

    REQUEUE = "requeue"
    FAIL = "fail"
    HOLD = "hold"
    """It stays running until its own deadline, for a late report; a person may retry or cancel it before."""


class Approval(StrEnum):
    """Whether a task may start. A refused task fails."""

    NOT_NEEDED = "not_needed"
    WAITING = "waiting"
    GIVEN = "given"
    REFUSED = "refused"


class Command(msgspec.Struct, frozen=True, kw_only=True, tag="command"):
    """A shell command; `timeout` in milliseconds."""

    command: str
    timeout: int


class FileWrite(msgspec.Struct, frozen=True, kw_only=True, tag="file-write"):
    """Write a file; content and encoding are any JSON value, judged where the file is."""

    path: str
    content: Any
    encoding: Any = "utf8"


class FileRead(msgspec.Struct, frozen=True, kw_only=True, tag="file-read"):
    """Read a file; `encoding` base64 gives its bytes (additive; None means text)."""

    path: str
    encoding: str | None = None


class FileEdit(msgspec.Struct, frozen=True, kw_only=True, tag="file-edit"):
    """Replace text in a file; the values are any JSON value."""

    path: str
    old_string: Any
    new_string: Any
    replace_all: Any = False


class Prompt(msgspec.Struct, frozen=True, kw_only=True, tag="prompt"):
    """A prompt for an agent CLI; `timeout` in milliseconds.

    model: None when the caller gave none (for Claude the wire then has no such key); a comma list names candidates.
    resume_latest: Gemini only. budget_usd, tools (an allow list) and approval_mode are additive; the adapter says what
    its CLI cannot do. `approval` "tools" lets every tool use of the agent wait for a person.
    """

    cli: str
    prompt: str
    timeout: int
    session_id: str
    model: str | None = None
    model_given: bool = False
    resume_latest: bool = False
    origin: str = "unknown"
    dispatch_mode: str = "unspecified"
    response_mode: str = "direct-callback"
    entrypoint: str | None = None
    budget_usd: float | None = None
    tools: tuple[str, ...] = ()
    approval: str = ""


Work = Command | FileWrite | FileRead | FileEdit | Prompt


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task may run: on the runner of this name or id, or on one with all these labels. Empty: anywhere."""

    runner: str = ""
    labels: dict[str, str] = {}


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Which host tasks a runner can be given: groups of task types, and what targets are compared with."""

    groups: tuple[str, ...]
    runner: str = ""
    name: str = ""
    labels: dict[str, str] = {}


class HostSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner is told of a task: the msgpack of a job of kind `host`."""

    task: TaskId
    type: TaskType
    work: Work
    created_at: int
    cwd: str | None = None
    env: dict[str, str] = {}
    session_key: str | None = None
    """The canonical conversation; the runner also locks on the provider's own session."""
    provider_session: str | None = None
    """The CLI's own id of the conversation, as far as the control plane knows it."""


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is reported of a task that has ended; `duration` in milliseconds.

    exit_code is any JSON value on the Task API's wire (only the number 0 is success); our runner always says an int.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: Any = -1
    error: Any = None
    duration: Any = None
    metadata: dict[str, Any] = {}

    @property
    def succeeded(self) -> bool:
        """Tell whether this is success: the number 0 (or 0.0), and nothing else."""
        code = self.exit_code
        return isinstance(code, int | float) and not isinstance(code, bool) and code == 0


class NewParcel(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be put into the outbox in the transaction that gives rise to it; see host_ports.Parcel."""

    kind: ParcelKind
    destination: str
    body: bytes


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task to be stored, with what surrounds it.

    priority moves it in the queue, see `order_of`; not_before delays it; callback_token is sealed (see
    domain/sealing). idempotency: the key and a digest of the request.
    """

    id: TaskId
    job: JobId
    owner: str
    type: TaskType
    work: Work
    created_at: int
    timeout_ms: int
    """How long one attempt may take, from the claim; grace included."""
    silence_ms: int = HOST_SILENCE_MS
    session_id: str | None = None
    session_key: str | None = None
    provider_session: str | None = None
    priority: int = 0
    not_before: int | None = None
    on_loss: OnLoss = OnLoss.REQUEUE
    approval: Approval = Approval.NOT_NEEDED
    target: Target = Target()
    cwd: str | None = None
    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    callback_channel: str | None = None
    callback_token: bytes | None = None
    callback_url: str = ""
    deliver_to: str | None = None
    """The channel that the control plane tells the end to, if the runner does not; "" records that there is none."""
    idempotency: tuple[str, str] | None = None
    answer_at: str = ""
    """The address of this server as the submission reached it, where people answer questions; "" when none arise."""
    questions: tuple[NewParcel, ...] = ()
    """What people are asked before it may start."""


class HostTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it stands. Times in milliseconds; `attempt` counts claims."""

    id: TaskId
    job: JobId
    owner: str
    type: TaskType
    status: TaskStatus
    work: Work
    created_at: int
    started_at: int | None
    completed_at: int | None
    session_id: str | None
    session_key: str | None
    priority: int
    not_before: int | None
    on_loss: OnLoss
    approval: Approval
    target: Target
    cwd: str | None
    env: dict[str, str]
    labels: dict[str, str]
    callback_channel: str | None
    callback_url: str
    attempt: int
    runner: str | None
    answer_at: str = ""
    reason: str
    """Why it ended otherwise than by its own report: cancelled, refused, expired, lost, or ""."""


class StoredResult(msgspec.Struct, frozen=True, kw_only=True):
    """A result: the Task API's result object as JSON text, ready to be sent. `consumed_at` None: not fetched yet."""

    task: TaskId
    body: bytes
    created_at: int
    consumed_at: int | None = None


class AgentSession(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with an agent CLI as the Task API lists it; API ids and provider ids are rows of their own."""

    session_id: str
    cli_type: str
    callback_channel: str | None
    task_count: int
    last_activity: int
    created_at: int


class TaskEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the trail of host tasks; `seq` orders it, `source` is server or runner."""

    seq: int
    id: str
    type: str
    created_at: int
    task_id: str | None = None
    task_type: str | None = None
    task_status: str | None = None
    session_id: str | None = None
    origin: str = "unknown"
    dispatch_mode: str = "unspecified"
    response_mode: str = "direct-callback"
    entrypoint: str | None = None
    details: Any = None
    source: str = "server"


def caps_of_task(task_type: TaskType, target: Target) -> str:
    """Return the capability that a runner must offer: `host@GROUP`, or that with `@runner=NAME` or `@label=K=V,...`.

    Names, keys and values are percent-encoded where they hold what would be read as another target.
    """
    base = f"host@{task_type.group}"
    if target.runner:
        return f"{base}@runner={_quoted(target.runner)}"
    if target.labels:
        pairs = (f"{_quoted(key)}={_quoted(value)}" for key, value in sorted(target.labels.items()))
        return f"{base}@label={','.join(pairs)}"
    return base


def _quoted(text: str) -> str:
    return quote(text, safe=_UNQUOTED, errors="surrogatepass")


def _read(text: str) -> str:
    return unquote(text, errors="surrogatepass") if "%" in text else text


def reaches(reach: Reach, caps: str) -> bool:
    """Tell whether a runner of this reach can be given tasks of a capability, see `caps_of_task`."""
    _, group, *target = caps.split("@", 2)
    if group not in reach.groups:
        return False
    if not target:
        return True
    how, _, what = target[0].partition("=")
    if how == "runner":
        return bool(what) and _read(what) in (reach.runner, reach.name)
    pairs = (each.partition("=") for each in what.split(","))
    return all(reach.labels.get(_read(key)) == _read(value) for key, _, value in pairs)


def order_of(created_at: int, priority: int) -> int:
    """Return where a task stands in the queue: earlier is smaller."""
    return created_at - priority * PRIORITY_STEP_MS
