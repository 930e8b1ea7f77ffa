"""The tables of the E2B dialect: the control API, and the ports of every sandbox.

What E2B has and clawplane does not is answered 501 with a sentence that says so, whatever the path below its family.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from clawplane.api.auth import authenticate
from clawplane.api.e2b import contexts, control, files, filesystem, interpreter, process
from clawplane.api.e2b.answers import outside, refusal
from clawplane.api.e2b.bodies import drain
from clawplane.api.e2b.commands import Commands
from clawplane.api.e2b.control import Handler, Order
from clawplane.api.e2b.gate import DAEMON_PORT, INTERPRETER_PORT, Door, SandboxRoute
from clawplane.api.e2b.gate import Handler as SandboxHandler
from clawplane.api.e2b.sessions import House
from clawplane.domain.access import KEY_PREFIX, Caller
from clawplane.domain.access import Scope as KeyScope
from clawplane.domain.errors import ClawplaneError, NotImplementedHere
from clawplane.flows.access import require

_SANDBOX: Final = "/sandboxes/{sandboxID}"
_CLIENT_PREFIX: Final = "e2b_"

_TABLE: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("POST", "/sandboxes", control.create),
    ("POST", "/v2/sandboxes", control.create),
    ("GET", "/sandboxes", control.list_running),
    ("GET", "/v2/sandboxes", control.list_page),
    ("GET", _SANDBOX, control.describe),
    ("DELETE", _SANDBOX, control.kill),
    ("POST", f"{_SANDBOX}/timeout", control.set_timeout),
    ("POST", f"{_SANDBOX}/refreshes", control.refresh),
    ("POST", f"{_SANDBOX}/connect", control.connect),
    ("POST", f"/v2{_SANDBOX}/connect", control.connect),
    ("POST", f"{_SANDBOX}/resume", control.resume),
    ("POST", f"{_SANDBOX}/pause", control.pause),
    ("POST", f"{_SANDBOX}/fork", control.fork),
)
_ABSENT: Final = (
    (f"{_SANDBOX}/snapshots", "snapshots", "Fork the sandbox, or keep files in a named workspace."),
    (f"{_SANDBOX}/metrics", "metrics of sandboxes", "Ask /v1/sessions for a session's usage."),
    (f"{_SANDBOX}/network", "changes of a sandbox's network rules", "Create a sandbox with the rules."),
    (f"{_SANDBOX}/logs", "logs of sandboxes", "Ask /v1/sessions for a session's execs."),
    (f"/v2{_SANDBOX}/logs", "logs of sandboxes", "Ask /v1/sessions for a session's execs."),
    ("/templates", "templates", "Use the templates base, bare, data or full."),
    ("/v2/templates", "templates", "Use the templates base, bare, data or full."),
    ("/v3/templates", "templates", "Use the templates base, bare, data or full."),
    ("/default-templates", "templates", "Use the templates base, bare, data or full."),
    ("/snapshots", "snapshots", "Fork the sandbox, or keep files in a named workspace."),
    ("/volumes", "volumes", "Use named workspaces under /v1."),
    ("/secrets", "secrets", "Give values in envs when a sandbox is created."),
)


def routes(house: House) -> list[BaseRoute]:
    """Return the routes; they stand before all others, for a sandbox's request may have any path."""
    return [
        SandboxRoute(house, doors(Commands(house.sessions))),
        *(Route(path, _Control(house, handler), methods=[method]) for method, path, handler in _TABLE),
        *(
            Route(f"{path}{rest}", _Control(house, _refuse(outside(what, hint))))
            for path, what, hint in _ABSENT
            for rest in ("", "/{rest:path}")
        ),
    ]


def doors(commands: Commands) -> list[Door]:
    """Return the table of a sandbox's ports."""
    return [
        _daemon("GET", "/health", files.health),
        Door(port=DAEMON_PORT, method="GET", path="/files", handler=files.read_file, shape="daemon", signed=True),
        Door(
            port=DAEMON_PORT,
            method="POST",
            path="/files",
            handler=files.write_files,
            shape="daemon",
            upload=True,
            signed=True,
        ),
        *(_remote(f"/filesystem.Filesystem/{name}", handler) for name, handler in filesystem.HANDLERS.items()),
        *(_remote(f"/process.Process/{name}", handler) for name, handler in process.handlers(commands).items()),
        _code("POST", "/execute", interpreter.execute),
        _code("GET", "/contexts", contexts.list_contexts),
        _code("POST", "/contexts", contexts.create_context),
        _code("DELETE", "/contexts/{contextID}", contexts.remove_context),
        _code("POST", "/contexts/{contextID}/restart", contexts.restart_context),
    ]


class _Control:
    """One line of the control API as an ASGI application."""

    def __init__(self, house: House, handler: Handler) -> None:
        self._house = house
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request in the shape that clients read."""
        scope["clawplane.operation"] = "e2b.control"
        request = Request(scope, receive, send)
        try:
            caller = await self._caller(request)
            require(caller, KeyScope.SESSIONS)
            response = await self._handler(Order(request, self._house, caller))
        except ClawplaneError as error:
            await drain(request)
            response = refusal(error, "control")
        await response(scope, receive, send)

    async def _caller(self, request: Request) -> Caller:
        """Return who holds the key in `X-API-KEY`; clients that insist on it may write its prefix as `e2b_`."""
        key = request.headers.get("x-api-key", "").strip()
        if not key:
            return await authenticate(request, self._house.access)
        if key.startswith(_CLIENT_PREFIX):
            key = KEY_PREFIX + key.removeprefix(_CLIENT_PREFIX)
        return await self._house.access.authenticate(key)


def _refuse(error: NotImplementedHere) -> Handler:
    async def handler(_: Order) -> Response:
        raise error

    return handler


def _daemon(method: str, path: str, handler: SandboxHandler) -> Door:
    return Door(port=DAEMON_PORT, method=method, path=path, handler=handler, shape="daemon")


def _remote(path: str, handler: SandboxHandler) -> Door:
    return Door(port=DAEMON_PORT, method="POST", path=path, handler=handler, shape="remote")


def _code(method: str, path: str, handler: SandboxHandler) -> Door:
    return Door(port=INTERPRETER_PORT, method=method, path=path, handler=handler, shape="interpreter")
