"""Find the run that a path means: by its slug, the account's last, or a Worker's last."""

from __future__ import annotations

from clawplane.api.calls import Call
from clawplane.domain.runs import Run

LAST = "last"


async def chosen_run(call: Call) -> Run:
    """Return the run of `{runId}`, where `last` is reserved, of `{workerId}/runs/last`, or the account's last."""
    names = call.request.path_params
    if names.get("runId", LAST) != LAST:
        return await call.flows.runs.find(call.caller, call.path("runId"))
    return await call.flows.runs.last(call.caller, names.get("workerId"))
