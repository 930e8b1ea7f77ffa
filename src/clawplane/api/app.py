"""Put the HTTP edge together: the tables, the document, the runner link, the onion around all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from clawplane.api import openapi
from clawplane.api.calls import Call, Flows, Operation
from clawplane.api.coreclaw import routes as coreclaw
from clawplane.api.e2b import routes as e2b
from clawplane.api.e2b.sessions import House
from clawplane.api.edge import Edge
from clawplane.api.mcp.routes import mcp_routes
from clawplane.api.metrics import Metrics
from clawplane.api.native import routes as native
from clawplane.api.openclaw.dispatch import TaskApi
from clawplane.api.openclaw.limits import RateLimit
from clawplane.api.openclaw.visits import House as TaskHouse
from clawplane.api.routing import answer_unrouted, routes
from clawplane.flows.polling_runners import PollingRunners

LinkEndpoint = Callable[[WebSocket], Awaitable[None]]
LINK_PATH = "/v1/runner/link"


def build_app(flows: Flows, link_endpoint: LinkEndpoint) -> ASGIApp:
    """Return the ASGI application; starting and stopping the flows is the caller's."""
    metrics = Metrics()
    table = [*coreclaw.operations(), *native.operations(metrics)]
    house = House(sessions=flows.sessions, access=flows.access, tokens=flows.sandbox_tokens, clock=flows.clock)
    paths: list[BaseRoute] = e2b.routes(house)
    paths += routes([*table, _document_operation(table, flows.version)], flows)
    paths += mcp_routes(flows)
    paths.append(WebSocketRoute(LINK_PATH, link_endpoint))
    app = Starlette(
        routes=paths,
        middleware=[Middleware(Edge, limits=flows.limits, metrics=metrics)],
        exception_handlers={HTTPException: answer_unrouted},
    )
    return _task_api(app, flows, metrics)


def _task_api(app: ASGIApp, flows: Flows, metrics: Metrics) -> ASGIApp:
    """Answer the Task API's paths before anything else sees them."""
    if flows.host is None:
        return app
    options = flows.task_api
    house = TaskHouse(
        host=flows.host,
        runners=PollingRunners(flows.host, flows.queue, flows.clock),
        access=flows.access,
        wakeups=flows.wakeups,
        clock=flows.clock,
        limit=RateLimit(flows.clock, per_second=options.requests_per_second, burst=options.burst),
        notifier=flows.notifier,
        options=options,
    )
    return TaskApi(app, house=house, metrics=metrics)


def _document_operation(table: list[Operation], version: str) -> Operation:
    document = msgspec.json.encode(openapi.document(table, version=version))

    async def show(call: Call) -> Response:
        return Response(document, media_type="application/json")

    return Operation(
        method="GET",
        path="/openapi.json",
        operation_id="getOpenApi",
        summary="Describe this API",
        handler=show,
        tag="system",
        scope=None,
    )
