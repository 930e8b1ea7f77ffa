"""The route table of API v2: the published operations, the unpublished ones that clients use, and the CLI's aliases.

What this release does not offer (task templates, run queue) is in the document as such, and answers 501.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from clawplane.api.calls import Call, Handler, Operation, Parameter
from clawplane.api.coreclaw import discovery, publishing, reading, shapes, starting
from clawplane.api.pages import LIMIT, OFFSET
from clawplane.domain.access import Scope
from clawplane.domain.errors import NotImplementedHere
from clawplane.domain.lifecycle import RunStatus
from clawplane.flows.results import EXPORT_FORMATS, ResultPage

_KEYWORD: Final = Parameter(name="keyword", kind="string", description="Matches title, slug and path; empty = all.")
_LANGUAGE: Final = Parameter(name="language", kind="string", description="Language of the names.", default="en")
_PAGE: Final = (OFFSET, LIMIT)
_EXPORT: Final = (
    Parameter(name="format", kind="string", description="File format.", default="csv", choices=EXPORT_FORMATS),
    Parameter(name="filter_keys", kind="string", description="Columns, separated by commas; empty = all."),
)
_RUN_FILTER: Final = (
    *_PAGE,
    Parameter(name="worker_id", kind="string", description="A Worker's slug or owner~name."),
    Parameter(name="status", kind="string", description="State.", choices=tuple(status.value for status in RunStatus)),
    Parameter(name="start_time", kind="integer", description="Unix seconds; needs end_time.", minimum=0),
    Parameter(name="end_time", kind="integer", description="Unix seconds of the last day's midnight.", minimum=0),
)


def operations() -> list[Operation]:
    """Return the table; paths with fixed segments stand before those with a parameter in the same place."""
    return [
        *_discovery(),
        *_last_family("/workers/runs/last", "worker-runs", _names("{}AccountLastRun{}"), published=False),
        *_workers(),
        *_last_family("/workers/{workerId}/runs/last", "worker-runs", _names("{}WorkerLastRun{}")),
        *_last_family("/worker-runs/last", "worker-runs", _names("{}LastWorkerRun{}")),
        *_runs(),
        *_absent_families(),
    ]


def _names(pattern: str) -> dict[str, str]:
    actions = {
        "get": ("get", ""),
        "abort": ("abort", ""),
        "export": ("export", "Results"),
        "log": ("get", "Log"),
        "rerun": ("rerun", ""),
        "result": ("list", "Results"),
    }
    return {action: pattern.format(*parts) for action, parts in actions.items()}


def _discovery() -> list[Operation]:
    listing = (*_PAGE, _KEYWORD)
    return [
        _open("/proxy/region", "listProxyRegions", "List proxy regions", discovery.list_regions, query=(_LANGUAGE,),
              data=shapes.RegionList),
        _open("/store", "listStore", "List store workers", discovery.list_store, query=listing,
              data=shapes.WorkerList),
        _get("/users/account", "getAccount", "Get user account", discovery.get_account, data=shapes.Account,
             tag="account"),
        _get("/workers", "listWorkers", "List current user workers", discovery.list_workers, query=listing,
             data=shapes.WorkerList),
    ]  # fmt: skip


def _workers() -> list[Operation]:
    worker = "/workers/{workerId}"
    return [
        _get(worker, "getWorker", "Get worker detail", discovery.get_worker, data=shapes.WorkerDetail),
        _open(f"{worker}/input-schema", "getWorkerInputSchema", "Get worker input schema",
              discovery.get_input_schema, data=shapes.SchemaDocument),
        _open(f"{worker}/internal", "getWorkerInternal", "Get what publishing clients read", discovery.get_internal,
              data=shapes.WorkerInternal, published=False),
        _post(f"{worker}/versions", "publishWorkerVersion", "Upload the next version", publishing.publish_version,
              upload=True, published=False),
        _post(f"{worker}/versions/{{version}}", "replaceWorkerVersion", "Upload this version",
              publishing.replace_version, method="PUT", upload=True, published=False),
        _post(f"{worker}/runs", "runWorker", "Run worker", starting.run_worker, body=shapes.RunWorkerRequest,
              body_required=True, data=shapes.RunStarted),
    ]  # fmt: skip


def _runs() -> list[Operation]:
    run = "/worker-runs/{runId}"
    return [
        _get("/worker-runs", "listWorkerRuns", "List worker runs", reading.list_runs, query=_RUN_FILTER,
             data=shapes.RunList),
        _get(run, "getWorkerRun", "Get worker run detail", reading.get_run, data=shapes.RunObject),
        _post(f"{run}/abort", "abortWorkerRun", "Abort worker run", reading.abort_run),
        _get(f"{run}/log", "getWorkerRunLog", "Get worker run log", reading.get_log, data=shapes.RunLog),
        _post(f"{run}/rerun", "rerunWorkerRun", "Rerun worker run", starting.rerun, body=shapes.RerunRequest,
              data=shapes.RunStarted),
        _get(f"{run}/result", "listWorkerRunResults", "List worker run results", reading.list_results, query=_PAGE,
             data=ResultPage),
        _get(f"{run}/result/export", "exportWorkerRunResults", "Export worker run results", reading.export_results,
             query=_EXPORT, data=shapes.ExportLink),
    ]  # fmt: skip


def _last_family(prefix: str, tag: str, names: dict[str, str], *, published: bool = True) -> list[Operation]:
    """Return the six operations on a last run under `prefix`."""
    more: dict[str, Any] = {"tag": tag, "published": published}
    return [
        _get(prefix, names["get"], "Get last worker run", reading.get_run, data=shapes.RunObject, **more),
        _post(f"{prefix}/abort", names["abort"], "Abort last worker run", reading.abort_run, **more),
        _get(f"{prefix}/export", names["export"], "Export last worker run results", reading.export_results,
             query=_EXPORT, data=shapes.ExportLink, **more),
        _get(f"{prefix}/log", names["log"], "Get last worker run log", reading.get_log, data=shapes.RunLog, **more),
        _post(f"{prefix}/rerun", names["rerun"], "Rerun last worker run", starting.rerun, body=shapes.RerunRequest,
              data=shapes.RunStarted, **more),
        _get(f"{prefix}/result", names["result"], "List last worker run results", reading.list_results, query=_PAGE,
             data=ResultPage, **more),
    ]  # fmt: skip


def _absent_families() -> list[Operation]:
    """Return the operations of the wire that this release does not offer, so that they say so instead of 404."""
    task = "/worker-tasks/{workerTaskId}"
    table = [
        ("GET", "/worker-tasks", "listWorkerTasks"),
        ("POST", "/worker-tasks", "createWorkerTask"),
        ("GET", task, "getWorkerTask"),
        ("PUT", task, "updateWorkerTask"),
        ("DELETE", task, "deleteWorkerTask"),
        ("GET", f"{task}/input", "getWorkerTaskInput"),
        ("PUT", f"{task}/input", "updateWorkerTaskInput"),
        ("POST", f"{task}/runs", "runWorkerTask"),
        ("GET", "/run-queue/items", "listRunQueueItems"),
        ("POST", "/run-queue/items/activate", "activateRunQueueItems"),
        ("POST", "/run-queue/items/release", "releaseRunQueueItems"),
        ("POST", "/run-queue/items/{queueId}/release", "releaseRunQueueItem"),
        ("POST", "/workers/{workerId}/queued-runs", "queuedRunWorker"),
        ("GET", "/queued-worker-runs", "listQueuedWorkerRuns"),
    ]
    never_published = {"listQueuedWorkerRuns"}
    return [
        _get(
            path,
            name,
            "Not offered by this release",
            _absent,
            method=method,
            offered=False,
            published=name not in never_published,
        )
        for method, path, name in table
    ]


async def _absent(call: Call) -> Response:
    """Refuse an operation that this release does not offer."""
    raise NotImplementedHere("This operation is not offered by this release.", hint="See /openapi.json for what is.")


def _open(path: str, name: str, summary: str, handler: Handler, **more: Any) -> Operation:
    return _operation(path, name, summary, handler, {"method": "GET", "scope": None, **more})


def _get(path: str, name: str, summary: str, handler: Handler, **more: Any) -> Operation:
    return _operation(path, name, summary, handler, {"method": "GET", "scope": Scope.READ, **more})


def _post(path: str, name: str, summary: str, handler: Handler, **more: Any) -> Operation:
    return _operation(path, name, summary, handler, {"method": "POST", "scope": Scope.WORKERS, **more})


def _operation(path: str, name: str, summary: str, handler: Handler, more: dict[str, Any]) -> Operation:
    more.setdefault("tag", path.split("/")[1])
    return Operation(path=f"/api/v2{path}", operation_id=name, summary=summary, handler=handler, **more)
