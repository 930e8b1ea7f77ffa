"""The bodies of our own API (times in milliseconds)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from clawplane.domain.access import ApiKey, Scope
from clawplane.domain.batches import StoredLogLine
from clawplane.domain.diagnostics import Diagnostic
from clawplane.domain.leases import Attempt, Outcome, RunnerRecord
from clawplane.domain.runs import Subtask
from clawplane.domain.workers import Worker, WorkerVersion


class CreateWorker(Struct, forbid_unknown_fields=True):
    """Create a Worker without a package."""

    title: str
    name: str = ""
    description: str = ""
    categories: list[Annotated[int, Meta(ge=0, le=2**31 - 1)]] = []
    icon: str = ""


class CreateKey(Struct, forbid_unknown_fields=True):
    """Create a key. `runner` is the id of a runner that has to use it from now on."""

    name: str
    scopes: list[Scope]
    owner: str | None = None
    expires_at: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    runner: str | None = None


class VersionBody(Struct):
    """A version; `worker` is the slug, `unchanged` says that an upload stored nothing."""

    worker: str
    path: str
    version: str
    language: str
    status: str
    package_size: int
    package_sha256: str
    diagnostics: list[Diagnostic]
    fingerprint: str
    build_error: str
    created_at: int
    ready_at: int | None
    unchanged: bool = False


class WorkerBody(Struct):
    """A Worker with its versions, newest first."""

    slug: str
    path: str
    owner: str
    name: str
    title: str
    description: str
    categories: list[int]
    icon: str
    current_version: str | None
    created_at: int
    updated_at: int
    versions: list[VersionBody]


class VersionList(Struct, rename={"items": "list"}):
    """All versions of a Worker, newest first."""

    items: list[VersionBody]


class DiagnosticList(Struct, rename={"items": "list"}):
    """What the checks found in a version's package."""

    items: list[Diagnostic]


class LogLine(Struct):
    """One log entry of a stream; `seq` goes into `after`."""

    seq: int
    type: int
    group: str
    content: str
    timestamp: int
    source: str


class OutcomeBody(Struct):
    """How an attempt or a subtask ended, as measured from outside."""

    succeeded: bool
    reason: str
    exit_code: int | None
    signal: int | None
    message: str
    wall_ms: int
    cpu_ms: int
    peak_memory: int
    traffic: int


class AttemptBody(Struct):
    """One entry of a custody timeline."""

    attempt: int
    fence: int
    runner: str
    offered_at: int
    confirmed_at: int | None
    ended_at: int
    end: str
    outcome: OutcomeBody | None


class SubtaskBody(Struct):
    """A subtask with its custody timeline; `id` is decimal text, as in logs."""

    id: str
    index: int
    status: str
    outcome: OutcomeBody | None
    attempts: list[AttemptBody]


class SubtaskList(Struct, rename={"items": "list"}):
    """A run's subtasks in order."""

    items: list[SubtaskBody]


class RunnerBody(Struct):
    """A runner."""

    id: str
    name: str
    version: str
    capabilities: list[str]
    labels: dict[str, str]
    slots: dict[str, int]
    connected: bool
    draining: bool
    last_seen: int


class RunnerList(Struct, rename={"items": "list"}):
    """Every runner ever heard of, newest first."""

    items: list[RunnerBody]


class KeyBody(Struct):
    """A key without its secret."""

    id: str
    name: str
    owner: str
    scopes: list[str]
    created_at: int
    revoked_at: int | None
    expires_at: int | None


class NewKeyBody(Struct):
    """A key with its secret, which is shown this once as `key`."""

    id: str
    name: str
    owner: str
    scopes: list[str]
    created_at: int
    key: str


class KeyList(Struct, rename={"items": "list"}):
    """All keys, newest first."""

    items: list[KeyBody]


class EventBody(Struct):
    """One entry of the event log."""

    seq: int
    at: int
    kind: str
    subject: str
    data: dict[str, Any]


class EventList(Struct, rename={"items": "list"}):
    """Events behind `after`, oldest first."""

    items: list[EventBody]


class Health(Struct):
    """Whether runs can be taken, `reason` says why not; `sessions` why code sessions cannot, where that is refused."""

    ready: bool
    reason: str
    sessions: str = ""


def version_body(worker: Worker, version: WorkerVersion, *, unchanged: bool = False) -> VersionBody:
    """Return a version as it is shown."""
    return VersionBody(
        worker=worker.slug,
        path=worker.path,
        version=version.version,
        language=version.language,
        status=version.status.value,
        package_size=version.package_size,
        package_sha256=version.package_sha256,
        diagnostics=list(version.diagnostics),
        fingerprint=version.environment.fingerprint if version.environment else "",
        build_error=version.build_error,
        created_at=version.created_at,
        ready_at=version.ready_at,
        unchanged=unchanged,
    )


def worker_body(worker: Worker, versions: list[WorkerVersion]) -> WorkerBody:
    """Return a Worker as it is shown."""
    return WorkerBody(
        slug=worker.slug,
        path=worker.path,
        owner=worker.owner,
        name=worker.name,
        title=worker.title,
        description=worker.description,
        categories=list(worker.categories),
        icon=worker.icon,
        current_version=worker.current_version,
        created_at=worker.created_at,
        updated_at=worker.updated_at,
        versions=[version_body(worker, version) for version in versions],
    )


def log_line(line: StoredLogLine) -> LogLine:
    """Return a log entry as streams show it."""
    return LogLine(line.seq, line.type, line.group, line.content, line.at, line.source)


def subtask_body(subtask: Subtask, attempts: list[Attempt]) -> SubtaskBody:
    """Return a subtask with its attempts."""
    return SubtaskBody(
        str(subtask.id),
        subtask.index,
        subtask.status.value,
        _outcome(subtask.outcome),
        [
            AttemptBody(
                attempt.attempt,
                attempt.fence,
                attempt.runner,
                attempt.offered_at,
                attempt.confirmed_at,
                attempt.ended_at,
                attempt.end.value,
                _outcome(attempt.outcome),
            )
            for attempt in attempts
        ],
    )


def _outcome(outcome: Outcome | None) -> OutcomeBody | None:
    if outcome is None:
        return None
    return OutcomeBody(
        outcome.succeeded,
        outcome.reason,
        outcome.exit_code,
        outcome.signal,
        outcome.message,
        outcome.wall_ms,
        outcome.cpu_ms,
        outcome.peak_memory,
        outcome.traffic,
    )


def runner_body(runner: RunnerRecord) -> RunnerBody:
    """Return a runner as it is shown."""
    return RunnerBody(
        runner.id,
        runner.name,
        runner.version,
        list(runner.capabilities),
        runner.labels,
        runner.slots,
        runner.connected,
        runner.draining,
        runner.last_seen,
    )


def key_body(key: ApiKey) -> KeyBody:
    """Return a key as it is shown."""
    return KeyBody(key.id, key.name, key.owner, scopes_of(key), key.created_at, key.revoked_at, key.expires_at)


def scopes_of(key: ApiKey) -> list[str]:
    """Return a key's scopes in order."""
    return sorted(scope.value for scope in key.scopes)
