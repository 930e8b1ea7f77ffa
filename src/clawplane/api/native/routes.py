"""The route table of our own API: what the CoreClaw wire has no word for."""

from __future__ import annotations

from typing import Any, Final, Literal

from clawplane.api.calls import Operation, Parameter
from clawplane.api.metrics import Metrics
from clawplane.api.native import files, host_routes, keys, runs, session_routes, shapes, system, workers
from clawplane.domain.access import Scope

_FOLLOW: Final = (
    Parameter(name="after", kind="integer", description="Only what comes behind this seq.", default=0, minimum=0),
    Parameter(name="follow", kind="boolean", description="Go on as more comes."),
)
_WAIT: Final = Parameter(
    name="wait", kind="integer", description="Seconds to wait for the build's end.", default=0, minimum=0, maximum=300
)
_NDJSON: Final = "application/x-ndjson"


def operations(metrics: Metrics) -> list[Operation]:
    """Return the table."""
    system_lines = [*_keys(), *_system(metrics), *_files()]
    return [*_workers(), *_runs(), *system_lines, *session_routes.operations(), *host_routes.operations()]


def _workers() -> list[Operation]:
    worker = "/v1/workers/{workerId}"
    version = f"{worker}/versions/{{version}}"
    read, write = Scope.READ, Scope.WORKERS
    return [
        _line(
            "POST",
            "/v1/workers",
            "createWorker",
            "Create a Worker, or upload a version of one",
            handler=workers.create_worker,
            scope=write,
            upload=True,
            body=shapes.CreateWorker,
            data=shapes.VersionBody,
        ),
        _line(
            "GET",
            worker,
            "describeWorker",
            "Get a Worker with its versions",
            handler=workers.get_worker,
            scope=read,
            data=shapes.WorkerBody,
        ),
        _line("DELETE", worker, "removeWorker", "Remove a Worker", handler=workers.remove_worker, scope=write),
        _line(
            "GET",
            f"{worker}/versions",
            "listWorkerVersions",
            "List a Worker's versions",
            handler=workers.list_versions,
            scope=read,
            data=shapes.VersionList,
        ),
        _line(
            "GET",
            version,
            "getWorkerVersion",
            "Get a version",
            handler=workers.get_version,
            scope=read,
            query=(_WAIT,),
            data=shapes.VersionBody,
        ),
        _line(
            "GET",
            f"{version}/diagnostics",
            "listWorkerDiagnostics",
            "List what the checks found",
            handler=workers.list_diagnostics,
            scope=read,
            data=shapes.DiagnosticList,
        ),
        _line(
            "GET",
            f"{version}/log",
            "streamBuildLog",
            "Stream a build's log",
            handler=workers.get_build_log,
            scope=read,
            query=_FOLLOW,
            data=shapes.LogLine,
            media=_NDJSON,
        ),
    ]


def _runs() -> list[Operation]:
    run = "/v1/runs/{runId}"
    return [
        _line(
            "GET",
            f"{run}/log",
            "streamRunLog",
            "Stream a run's log",
            handler=runs.get_log,
            scope=Scope.READ,
            query=_FOLLOW,
            data=shapes.LogLine,
            media=_NDJSON,
        ),
        _line(
            "GET",
            f"{run}/subtasks",
            "listSubtasks",
            "List a run's subtasks and attempts",
            handler=runs.list_subtasks,
            scope=Scope.READ,
            data=shapes.SubtaskList,
        ),
    ]


def _keys() -> list[Operation]:
    return [
        _line(
            "POST",
            "/v1/keys",
            "createKey",
            "Create a key",
            handler=keys.create_key,
            scope=Scope.ADMIN,
            body=shapes.CreateKey,
            body_required=True,
            data=shapes.NewKeyBody,
        ),
        _line(
            "GET",
            "/v1/keys",
            "listKeys",
            "List the keys",
            handler=keys.list_keys,
            scope=Scope.ADMIN,
            data=shapes.KeyList,
        ),
        _line("DELETE", "/v1/keys/{keyId}", "revokeKey", "Revoke a key", handler=keys.revoke_key, scope=Scope.ADMIN),
    ]


def _system(metrics: Metrics) -> list[Operation]:
    events = (
        *_FOLLOW,
        Parameter(name="subject", kind="string", description="A run's slug, or `worker@version`."),
        Parameter(name="limit", kind="integer", description="How many.", default=100, minimum=1, maximum=1000),
    )
    return [
        _line(
            "GET",
            "/v1/runners",
            "listRunners",
            "List the runners",
            handler=system.list_runners,
            scope=Scope.READ,
            data=shapes.RunnerList,
        ),
        _line(
            "GET",
            "/v1/events",
            "listEvents",
            "List or follow events",
            handler=system.list_events,
            scope=Scope.READ,
            query=events,
            data=shapes.EventList,
        ),
        _line(
            "GET",
            "/healthz",
            "getHealth",
            "Tell whether runs can be taken",
            handler=system.health,
            scope=None,
            data=shapes.Health,
        ),
        _line(
            "GET",
            "/metrics",
            "getMetrics",
            "Show metrics to Prometheus",
            handler=system.metrics_handler(metrics),
            scope=Scope.READ,
            media="text/plain",
        ),
    ]


def _files() -> list[Operation]:
    return [
        _line(
            "GET",
            "/v1/downloads/{token}",
            "downloadFile",
            "Download what a signed link names",
            handler=files.download,
            scope=None,
            media="application/octet-stream",
        ),
        _line(
            "GET",
            "/v1/runner/blobs/{key:path}",
            "readBlob",
            "Fetch a package or lock",
            handler=files.read_blob,
            scope=Scope.RUNNER,
            media="application/octet-stream",
            published=False,
        ),
    ]


def _line(
    method: Literal["GET", "POST", "PUT", "DELETE"], path: str, name: str, summary: str, **more: Any
) -> Operation:
    tag = path.split("/")[2] if path.startswith("/v1/") else "system"
    return Operation(method=method, path=path, operation_id=name, summary=summary, tag=tag, **more)
