"""Upload versions as publishing clients do."""

from __future__ import annotations

from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.uploads import upload_of


async def publish_version(call: Call) -> Response:
    """Store the next version of a Worker."""
    worker_id = call.path("workerId")
    await call.flows.packages.own(call.caller, worker_id)  # an unknown Worker is told before 100 MB have come
    async with upload_of(call) as upload:
        await call.flows.packages.publish(call.caller, worker_id, upload.package(), upload.details())
    return replies.done(call)


async def replace_version(call: Call) -> Response:
    """Store the version that the path names."""
    worker_id = call.path("workerId")
    await call.flows.packages.own(call.caller, worker_id)
    async with upload_of(call) as upload:
        await call.flows.packages.replace(
            call.caller, worker_id, call.path("version"), upload.package(), upload.details()
        )
    return replies.done(call)
