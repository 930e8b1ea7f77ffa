"""Regions, store, account and Workers."""

from __future__ import annotations

from functools import cache
from importlib import resources

import msgspec
from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.coreclaw import shapes
from clawplane.api.coreclaw.shapes import Region
from clawplane.api.pages import page_of
from clawplane.domain.errors import NotFound
from clawplane.domain.workers import WorkerVersion

_BALANCE_YEARS = 20
_YEAR_SECONDS = 31_557_600


@cache
def _regions() -> tuple[Region, ...]:
    text = resources.files("clawplane.api.coreclaw").joinpath("regions.json").read_bytes()
    names = msgspec.json.decode(text, type=dict[str, str])
    return tuple(Region(code, name) for code, name in names.items())


async def list_regions(call: Call) -> Response:
    """Return every region; `language` is not validated, names are English."""
    return replies.success(call, shapes.RegionList(list(_regions())))


async def list_store(call: Call) -> Response:
    """Return a page of all Workers."""
    return await _listing(call, None)


async def list_workers(call: Call) -> Response:
    """Return a page of the caller's Workers."""
    return await _listing(call, call.caller.owner)


async def _listing(call: Call, owner: str | None) -> Response:
    page = page_of(call)
    keyword = call.text("keyword").strip()
    _, workers = await call.flows.packages.page(owner=owner, keyword=keyword, limit=page.limit, offset=page.skip)
    items = [shapes.worker_item(worker) for worker in workers]
    return replies.success(call, shapes.WorkerList(items, items))


async def get_account(call: Call) -> Response:
    """Return the configured balance."""
    expires = call.flows.clock.now_ms() // 1000 + _BALANCE_YEARS * _YEAR_SECONDS
    return replies.success(call, shapes.Account(call.flows.balance, expires))


async def get_worker(call: Call) -> Response:
    """Return a Worker with its parameters."""
    packages = call.flows.packages
    worker = await packages.find(call.path("workerId"))
    version = await packages.current(worker)
    schema = version.input_schema if version else b'{"properties":[]}'
    detail = shapes.WorkerDetail(
        name=worker.name,
        username=worker.owner,
        version=version.version if version else "",
        readme=version.readme if version else "",
        parameters=shapes.WorkerParameters(shapes.SystemParameters(), msgspec.Raw(schema)),
        title=worker.title,
        description=worker.description,
        slug=worker.slug,
        path=worker.path,
    )
    return replies.success(call, detail)


async def get_input_schema(call: Call) -> Response:
    """Return the input schema's own members, and itself as `input_schema`."""
    version = await _current(call)
    members = msgspec.json.decode(version.input_schema, type=dict[str, msgspec.Raw])
    return replies.success(call, {**members, "input_schema": msgspec.Raw(version.input_schema)})


async def get_internal(call: Call) -> Response:
    """Return what publishing clients read."""
    worker = await call.flows.packages.find(call.path("workerId"))
    version = await call.flows.packages.current(worker)
    internal = shapes.WorkerInternal(
        title=worker.title,
        description=worker.description,
        categories=list(worker.categories),
        version=version.version if version else "",
        icon=worker.icon,
        slug=worker.slug,
    )
    return replies.success(call, internal)


async def _current(call: Call) -> WorkerVersion:
    worker = await call.flows.packages.find(call.path("workerId"))
    version = await call.flows.packages.current(worker)
    if version is None:
        raise NotFound(f"{worker.path} has no version yet.", hint="Push one.")
    return version
