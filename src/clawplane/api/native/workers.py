"""Workers, versions and builds."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.native import shapes
from clawplane.api.native.logs import log_stream
from clawplane.api.uploads import upload_of
from clawplane.domain.errors import InvalidSchema
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.workers import Worker, WorkerVersion, build_subject
from clawplane.flows.packages import Details

_MAX_WAIT: Final = 300


async def create_worker(call: Call) -> Response:
    """Upload a package as a version of the Worker it names, which is created when absent; or create one by JSON."""
    media = call.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "application/json":
        return await _create_empty(call)
    async with upload_of(call) as upload:
        name = upload.first("name") or upload.first("title")
        if not name:
            raise InvalidSchema("name: the form names no Worker.", hint="Send `name` or `title`.")
        worker, version, stored = await call.flows.packages.push(
            call.caller, name, upload.package(), version=upload.first("version") or None, details=upload.details()
        )
    body = shapes.version_body(worker, version, unchanged=not stored)
    return replies.success(call, body, status=201 if stored else 200)


async def _create_empty(call: Call) -> Response:
    request = await call.body(shapes.CreateWorker)
    details = Details(
        title=request.title,
        description=request.description,
        categories=tuple(request.categories),
        icon=request.icon,
    )
    worker = await call.flows.packages.create(call.caller, request.name, details)
    return replies.success(call, shapes.worker_body(worker, []), status=201)


async def get_worker(call: Call) -> Response:
    """Return a Worker with its versions."""
    worker = await call.flows.packages.find(call.path("workerId"))
    return replies.success(call, shapes.worker_body(worker, await call.flows.packages.versions(worker)))


async def remove_worker(call: Call) -> Response:
    """Remove a Worker; its runs stay readable."""
    await call.flows.packages.remove(call.caller, call.path("workerId"))
    return replies.done(call)


async def list_versions(call: Call) -> Response:
    """Return a Worker's versions."""
    worker = await call.flows.packages.find(call.path("workerId"))
    versions = await call.flows.packages.versions(worker)
    return replies.success(call, shapes.VersionList([shapes.version_body(worker, item) for item in versions]))


async def get_version(call: Call) -> Response:
    """Return a version; with `wait`, when its build has ended or after so many seconds."""
    seconds = call.number("wait", 0, low=0, high=_MAX_WAIT) or 0
    worker, version = await _version(call)
    if seconds and version.status is VersionStatus.BUILDING:
        version = await call.flows.packages.wait_built(worker, version.version, seconds)
    return replies.success(call, shapes.version_body(worker, version))


async def list_diagnostics(call: Call) -> Response:
    """Return what the checks found in a version's package."""
    _, version = await _version(call)
    return replies.success(call, shapes.DiagnosticList(list(version.diagnostics)))


async def get_build_log(call: Call) -> Response:
    """Stream a build's log; with `follow`, to the build's end."""
    worker, version = await _version(call)
    packages = call.flows.packages
    await packages.own(call.caller, worker.slug)

    async def ended() -> bool:
        return (await packages.version(worker, version.version)).status is not VersionStatus.BUILDING

    return log_stream(call, build_subject(worker.slug, version.version), ended, closes=False)


async def _version(call: Call) -> tuple[Worker, WorkerVersion]:
    worker = await call.flows.packages.find(call.path("workerId"))
    return worker, await call.flows.packages.version(worker, call.path("version"))
