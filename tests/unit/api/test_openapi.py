"""The document is generated from the tables, and says what the published one says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from plane import plane

from clawplane.api.coreclaw import routes as coreclaw
from clawplane.api.metrics import Metrics
from clawplane.api.native import routes as native

PUBLISHED = {
    ("get", "/api/v2/proxy/region"): "listProxyRegions",
    ("get", "/api/v2/store"): "listStore",
    ("get", "/api/v2/users/account"): "getAccount",
    ("get", "/api/v2/workers"): "listWorkers",
    ("get", "/api/v2/workers/{workerId}"): "getWorker",
    ("get", "/api/v2/workers/{workerId}/input-schema"): "getWorkerInputSchema",
    ("post", "/api/v2/workers/{workerId}/runs"): "runWorker",
    ("get", "/api/v2/workers/{workerId}/runs/last"): "getWorkerLastRun",
    ("post", "/api/v2/workers/{workerId}/runs/last/abort"): "abortWorkerLastRun",
    ("get", "/api/v2/workers/{workerId}/runs/last/export"): "exportWorkerLastRunResults",
    ("get", "/api/v2/workers/{workerId}/runs/last/log"): "getWorkerLastRunLog",
    ("post", "/api/v2/workers/{workerId}/runs/last/rerun"): "rerunWorkerLastRun",
    ("get", "/api/v2/workers/{workerId}/runs/last/result"): "listWorkerLastRunResults",
    ("get", "/api/v2/worker-runs"): "listWorkerRuns",
    ("get", "/api/v2/worker-runs/last"): "getLastWorkerRun",
    ("post", "/api/v2/worker-runs/last/abort"): "abortLastWorkerRun",
    ("get", "/api/v2/worker-runs/last/export"): "exportLastWorkerRunResults",
    ("get", "/api/v2/worker-runs/last/log"): "getLastWorkerRunLog",
    ("post", "/api/v2/worker-runs/last/rerun"): "rerunLastWorkerRun",
    ("get", "/api/v2/worker-runs/last/result"): "listLastWorkerRunResults",
    ("get", "/api/v2/worker-runs/{runId}"): "getWorkerRun",
    ("post", "/api/v2/worker-runs/{runId}/abort"): "abortWorkerRun",
    ("get", "/api/v2/worker-runs/{runId}/log"): "getWorkerRunLog",
    ("post", "/api/v2/worker-runs/{runId}/rerun"): "rerunWorkerRun",
    ("get", "/api/v2/worker-runs/{runId}/result"): "listWorkerRunResults",
    ("get", "/api/v2/worker-runs/{runId}/result/export"): "exportWorkerRunResults",
    ("get", "/api/v2/worker-tasks"): "listWorkerTasks",
    ("post", "/api/v2/worker-tasks"): "createWorkerTask",
    ("get", "/api/v2/worker-tasks/{workerTaskId}"): "getWorkerTask",
    ("put", "/api/v2/worker-tasks/{workerTaskId}"): "updateWorkerTask",
    ("delete", "/api/v2/worker-tasks/{workerTaskId}"): "deleteWorkerTask",
    ("get", "/api/v2/worker-tasks/{workerTaskId}/input"): "getWorkerTaskInput",
    ("put", "/api/v2/worker-tasks/{workerTaskId}/input"): "updateWorkerTaskInput",
    ("post", "/api/v2/worker-tasks/{workerTaskId}/runs"): "runWorkerTask",
    ("get", "/api/v2/run-queue/items"): "listRunQueueItems",
    ("post", "/api/v2/run-queue/items/activate"): "activateRunQueueItems",
    ("post", "/api/v2/run-queue/items/release"): "releaseRunQueueItems",
    ("post", "/api/v2/run-queue/items/{queueId}/release"): "releaseRunQueueItem",
    ("post", "/api/v2/workers/{workerId}/queued-runs"): "queuedRunWorker",
}


@pytest.fixture
async def document(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    async with plane(tmp_path) as here, here.client(None) as client:
        yield (await client.get("/openapi.json")).json()


async def test_the_published_operations_have_their_published_names(document: dict[str, Any]) -> None:
    shown = {
        (method, path): operation["operationId"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if path.startswith("/api/v2")
    }
    assert shown == PUBLISHED
    assert len(shown) == 39


async def test_every_operation_has_a_name_of_its_own() -> None:
    table = [*coreclaw.operations(), *native.operations(Metrics())]
    names = [operation.operation_id for operation in table]
    assert len(names) == len(set(names))


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '([^']+)'", str(document)))
    assert references
    for reference in references:
        name = reference.removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"], reference


async def test_public_operations_are_marked_as_such(document: dict[str, Any]) -> None:
    public = {
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if operation.get("security") == []
    }
    assert public == {
        "/api/v2/proxy/region",
        "/api/v2/store",
        "/api/v2/workers/{workerId}/input-schema",
        "/healthz",
        "/v1/downloads/{token}",
        "/v1/host/approvals/{token}",
    }


async def test_responses_are_documented_as_the_platform_does(document: dict[str, Any]) -> None:
    responses = document["paths"]["/api/v2/worker-runs/{runId}/result"]["get"]["responses"]
    assert set(responses) == {"200", "400", "401", "404", "422", "429", "500"}
    result = responses["200"]["content"]["application/json"]["schema"]["properties"]["data"]
    assert result == {"$ref": "#/components/schemas/ResultPage"}
    page = document["components"]["schemas"]["ResultPage"]
    assert set(page["properties"]) == {"count", "headers", "list", "page_index", "page_size"}


async def test_what_is_not_offered_is_documented_as_such(document: dict[str, Any]) -> None:
    responses = document["paths"]["/api/v2/worker-tasks"]["get"]["responses"]
    assert set(responses) == {"401", "501"}
