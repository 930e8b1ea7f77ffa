"""Runs and their subtasks."""

from __future__ import annotations

from typing import Literal

import msgspec

from clawplane.domain.ids import JobId, RunSlug, WorkerSlug
from clawplane.domain.leases import NewJob, Outcome
from clawplane.domain.lifecycle import RunStatus, SubtaskStatus
from clawplane.domain.workers import Environment, Language

Origin = Literal["api_v2", "api", "web", "cli"]

MIN_VISIBLE_MS = 100
"""A run may not end sooner after its creation: clients abort in the very next request and expect success."""


class RunSystem(msgspec.Struct, frozen=True, kw_only=True):
    """The platform parameters of a run: memory and traffic in MB (2^20), time in seconds, charge in USD."""

    cpus: float = 0.125
    memory: int = 512
    execute_limit_time_seconds: int = 1800
    max_total_charge: float = 0
    max_total_traffic: int = 0
    proxy_region: str = ""


class HeaderItem(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a run's table."""

    key: str
    label: str = ""
    format: str = "text"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One request to execute a Worker. Times in milliseconds."""

    slug: RunSlug
    worker: WorkerSlug
    worker_title: str
    version: str
    owner: str
    status: RunStatus
    input: bytes
    """The custom object as JSON, after defaults."""
    system: RunSystem
    origin: Origin = "api_v2"
    callback_url: str = ""
    rerun_of: RunSlug | None = None
    subtask_count: int
    result_count: int = 0
    header: tuple[HeaderItem, ...] | None = None
    """The header set at run time; None when none was set."""
    error: str = ""
    cpu_ms: int = 0
    traffic: int = 0
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None


class Subtask(msgspec.Struct, frozen=True, kw_only=True):
    """One of the independent parts of a run."""

    id: JobId
    run: RunSlug
    index: int
    status: SubtaskStatus
    outcome: Outcome | None = None


class SubtaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner needs to execute a subtask; immutable, kept as the job's spec."""

    run: RunSlug
    index: int
    worker: WorkerSlug
    version: str
    language: Language
    package_key: str
    package_sha256: str
    environment: Environment
    input: bytes
    """The subtask's input object as JSON text."""
    system: RunSystem


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run to be stored with its subtasks' jobs, in one transaction."""

    run: Run
    jobs: tuple[NewJob, ...]


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs a listing shows; times in milliseconds, None = unbounded."""

    owner: str | None = None
    worker: WorkerSlug | None = None
    status: RunStatus | None = None
    created_from: int | None = None
    created_before: int | None = None


class SubtaskTotals(msgspec.Struct, frozen=True, kw_only=True):
    """How a run's subtasks stand."""

    ready: int
    running: int
    succeeded: int
    failed: int
    aborted: int


class EndedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has just reached its end through a statement of the store."""

    slug: RunSlug
    status: RunStatus
    totals: SubtaskTotals
