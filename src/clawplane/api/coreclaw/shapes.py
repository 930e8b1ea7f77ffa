"""The bodies of API v2: what is accepted and what is sent, field by field (times in unix seconds)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from clawplane.domain.batches import StoredLogLine
from clawplane.domain.clock import Clock
from clawplane.domain.lifecycle import RunStatus
from clawplane.domain.runs import HeaderItem, Run
from clawplane.domain.workers import Worker
from clawplane.flows.results import ResultPage

Offset = Annotated[int, Meta(ge=0, le=10**12)]
Limit = Annotated[int, Meta(ge=1, le=100)]


class RunWorkerRequest(Struct, forbid_unknown_fields=True):
    """Start a run. `input` is `{"parameters": {"custom": {}, "system": {}}}`."""

    input: msgspec.Raw | UnsetType = UNSET
    version: str | None = None
    is_async: bool | None = True
    callback_url: str | None = None
    offset: Offset | None = 0
    limit: Limit | None = 20


class RerunRequest(Struct, forbid_unknown_fields=True):
    """Start a run again."""

    callback_url: str | None = None
    is_async: bool | None = True
    offset: Offset | None = 0
    limit: Limit | None = 20


class Region(Struct):
    """A country of the proxy."""

    code: str
    name: str


class RegionList(Struct, rename={"items": "list"}):
    """All regions."""

    items: list[Region]


class WorkerItem(Struct):
    """A Worker in a listing."""

    description: str
    name: str
    path: str
    slug: str
    title: str
    username: str


class WorkerList(Struct, rename={"items": "list"}):
    """A page of Workers; `list` is the same array under the name that other clients know."""

    scraper: list[WorkerItem]
    items: list[WorkerItem]


class Account(Struct):
    """The caller's account."""

    balance: str
    balance_expiration_at: int


class SystemParameters(Struct):
    """The platform parameters' defaults."""

    cpus: float = 0.125
    memory: int = 512
    execute_limit_time_seconds: int = 1800
    max_total_charge: float = 0
    max_total_traffic: int = 0
    proxy_region: str = ""


class WorkerParameters(Struct):
    """What a run of a Worker takes; `custom` is its input schema object."""

    system: SystemParameters
    custom: msgspec.Raw


class WorkerDetail(Struct):
    """A Worker."""

    name: str
    username: str
    version: str
    readme: str
    parameters: WorkerParameters
    title: str
    description: str
    slug: str
    path: str


class WorkerInternal(Struct):
    """What publishing clients read of a Worker."""

    title: str
    description: str
    categories: list[int]
    version: str
    icon: str
    slug: str


class RunStarted(Struct):
    """The answer to an asynchronous start."""

    run_slug: str


class RunObject(Struct, omit_defaults=False):
    """A run, in lists and alone. `err_msg` is sent for failed runs only."""

    slug: str
    scraper_slug: str
    scraper_title: str
    version: str
    status: str
    results: int
    usage: str
    traffic: int
    origin: str
    started_at: int
    finished_at: int
    duration: int
    err_msg: str | UnsetType = UNSET


class RunList(Struct, rename={"items": "list"}):
    """A page of runs."""

    count: int
    items: list[RunObject]
    page_index: int
    page_size: int


class SyncRun(Struct):
    """The answer to a synchronous run."""

    run_slug: str
    run_status: str
    error_message: str
    execution_start_timestamp: int
    execution_end_timestamp: int
    running_duration: int
    result_message: str
    results: ResultPage


class SyncRerun(Struct):
    """The answer to a synchronous rerun."""

    run_slug: str
    run_status: str
    execution_start_timestamp: int
    execution_end_timestamp: int
    running_duration: int
    is_finished: bool
    results: ResultPage


class LogEntry(Struct):
    """One log entry; `type` 1 debug to 4 error, `timestamp` in milliseconds, `group` the subtask's id."""

    type: int
    group: str
    content: str
    timestamp: int


class RunLog(Struct, rename={"items": "list"}):
    """The newest log entries and a link to all."""

    all_logs_url: str
    items: list[LogEntry]
    result_count: int


class ExportLink(Struct):
    """Where an export can be fetched for a while, without a key."""

    download_url: str


class SchemaDocument(Struct):
    """An input schema's own members, and the same object as `input_schema`."""

    input_schema: dict[str, Any]


def worker_item(worker: Worker) -> WorkerItem:
    """Return a Worker as listings show it."""
    return WorkerItem(worker.description, worker.name, worker.path, worker.slug, worker.title, worker.owner)


def run_object(run: Run, *, usage: str, clock: Clock) -> RunObject:
    """Return a run as the wire shows it."""
    return RunObject(
        slug=run.slug,
        scraper_slug=run.worker,
        scraper_title=run.worker_title,
        version=run.version,
        status=run.status.value,
        results=run.result_count,
        usage=usage,
        traffic=run.traffic,
        origin=run.origin,
        started_at=seconds(run.started_at),
        finished_at=seconds(run.finished_at),
        duration=duration(run, clock),
        err_msg=(run.error or "The run failed.") if run.status is RunStatus.FAILED else UNSET,
    )


def seconds(ms: int | None) -> int:
    """Return unix seconds, 0 while unknown."""
    return 0 if ms is None else ms // 1000


def duration(run: Run, clock: Clock) -> int:
    """Return how many seconds a run has taken so far."""
    if run.started_at is None:
        return 0
    if run.finished_at is not None:
        return max(0, run.finished_at // 1000 - run.started_at // 1000)
    return 0 if run.status.ended else max(0, clock.now_ms() // 1000 - run.started_at // 1000)


def log_entry(line: StoredLogLine) -> LogEntry:
    """Return a log entry as the wire shows it."""
    return LogEntry(line.type, line.group, line.content, line.at)


def headers(columns: list[HeaderItem]) -> list[HeaderItem]:
    """Return columns with their labels filled in."""
    return [column if column.label else msgspec.structs.replace(column, label=column.key) for column in columns]
