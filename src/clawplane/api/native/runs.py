"""Look into runs: the log as it grows, and who had which subtask when."""

from __future__ import annotations

from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.native import shapes
from clawplane.api.native.logs import log_stream
from clawplane.domain.runs import Run


async def get_log(call: Call) -> Response:
    """Stream a run's log; with `follow`, to the run's end."""
    run = await _run(call)
    runs, caller = call.flows.runs, call.caller

    async def ended() -> bool:
        now = await runs.find(caller, run.slug)
        return now.status.ended and (now.finished_at is not None)

    return log_stream(call, run.slug, ended, closes=True)


async def list_subtasks(call: Call) -> Response:
    """Return a run's subtasks with their attempts."""
    run = await _run(call)
    subtasks = await call.flows.runs.subtasks(call.caller, run.slug)
    return replies.success(call, shapes.SubtaskList([shapes.subtask_body(*item) for item in subtasks]))


async def _run(call: Call) -> Run:
    run_id = call.path("runId")
    if run_id == "last":
        return await call.flows.runs.last(call.caller)
    return await call.flows.runs.find(call.caller, run_id)
