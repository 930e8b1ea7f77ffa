"""Turn a table of operations into routes: look at the key, build the call, run the handler."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
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
    """Return the routes of a table, in its order."""
    return [Route(item.path, Endpoint(item, flows), methods=[item.method]) for item in operations]


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
