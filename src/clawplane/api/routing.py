"""Turn a table of operations into routes: look at the key, build the call, run the handler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.datastructures import URLPath
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

from clawplane.api import errors
from clawplane.api.auth import authenticate
from clawplane.api.calls import Call, Flows, Operation
from clawplane.flows.access import require


class Endpoint:
    """One operation as an ASGI application."""

    def __init__(self, operation: Operation, flows: Flows) -> None:
        self._operation = operation
        self._flows = flows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors rise to the edge."""
        operation, flows = self._operation, self._flows
        scope["clawplane.operation"] = operation.operation_id
        request = Request(scope, receive, send)
        caller = None
        if operation.scope is not None:
            caller = await authenticate(request, flows.access)
            require(caller, operation.scope)
        if operation.upload:
            scope["clawplane.body"].expect_upload()
        response = await operation.handler(Call(request, flows, scope["clawplane.id"], caller))
        await response(scope, receive, send)


def routes(operations: Iterable[Operation], flows: Flows) -> list[BaseRoute]:
    """Return the routes of a table, in its order; those of paths without parameters are found at once."""
    found = [(item, Endpoint(item, flows)) for item in operations]
    plain: dict[tuple[str, str], Endpoint] = {
        (item.method, item.path): endpoint for item, endpoint in found if "{" not in item.path
    }
    return [_PlainPaths(plain), *(Route(item.path, endpoint, methods=[item.method]) for item, endpoint in found)]


class _PlainPaths(BaseRoute):
    """The paths without parameters, by one look; the routes behind it know HEAD, and which methods a path allows."""

    def __init__(self, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._endpoints = endpoints

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell whether the request is for one of them."""
        if scope["type"] != "http":
            return Match.NONE, {}
        endpoint = self._endpoints.get((scope["method"], scope["path"]))
        return (Match.NONE, {}) if endpoint is None else (Match.FULL, {"endpoint": endpoint, "path_params": {}})

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Name no path."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        await scope["endpoint"](scope, receive, send)


async def answer_unrouted(request: Request, error: Exception) -> Response:
    """Answer what no route takes; the router says so by an HTTPException."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    allow = (error.headers or {}).get("Allow") if isinstance(error, HTTPException) else None
    return errors.unrouted(
        status,
        method=request.method,
        request_id=request.scope["clawplane.id"],
        allow=allow,
    )
