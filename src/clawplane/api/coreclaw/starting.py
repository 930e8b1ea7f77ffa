"""Start runs and start them again; wait for them when asked to."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.coreclaw import shapes
from clawplane.api.coreclaw.choosing import chosen_run
from clawplane.api.coreclaw.shapes import RerunRequest, RunWorkerRequest
from clawplane.domain.runs import Run
from clawplane.flows.results import ResultPage


async def run_worker(call: Call) -> Response:
    """Start a run of the Worker in the path."""
    request = await call.body(RunWorkerRequest, empty=True)
    run = await call.flows.runs.start(
        call.caller,
        call.path("workerId"),
        b"null" if request.input is UNSET else bytes(request.input),
        version=request.version or None,
        callback_url=request.callback_url or "",
    )
    if request.is_async is not False:
        return replies.success(call, shapes.RunStarted(run.slug))
    run = await call.flows.runs.wait(run.slug)
    results = await _window(call, run, request)
    answer = shapes.SyncRun(**_times(call, run), error_message=run.error, result_message="", results=results)
    return replies.success(call, answer)


async def rerun(call: Call) -> Response:
    """Start the run in the path again."""
    request = await call.body(RerunRequest, empty=True)
    old = await chosen_run(call)
    run = await call.flows.runs.rerun(call.caller, old.slug, callback_url=request.callback_url or "")
    if request.is_async is not False:
        return replies.success(call, shapes.RunStarted(run.slug))
    run = await call.flows.runs.wait(run.slug)
    results = await _window(call, run, request)
    return replies.success(call, shapes.SyncRerun(**_times(call, run), is_finished=run.status.ended, results=results))


async def _window(call: Call, run: Run, request: RunWorkerRequest | RerunRequest) -> ResultPage:
    page = await call.flows.results.page(run, page=max(1, request.offset or 1), limit=request.limit or 20)
    return msgspec.structs.replace(page, headers=shapes.headers(page.headers))


def _times(call: Call, run: Run) -> dict[str, Any]:
    return {
        "run_slug": run.slug,
        "run_status": run.status.value,
        "execution_start_timestamp": shapes.seconds(run.started_at),
        "execution_end_timestamp": shapes.seconds(run.finished_at),
        "running_duration": shapes.duration(run, call.flows.clock),
    }
