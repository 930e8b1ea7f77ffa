"""Tell requests to a sandbox's own ports from requests to the control API, and let in who holds the sandbox's token.

Theory of operation. In E2B every sandbox has hosts of its own, one per port; here everything arrives on one port.
Clients that are given one address for all sandboxes send `E2b-Sandbox-Id` and `E2b-Sandbox-Port`; others use the host
name `<port>-<sandbox>.<domain>`. Either makes a request a sandbox's, whatever its path, so this route stands first in
the table and no path of a sandbox can be mistaken for one of ours. The token is checked before anything is looked up:
it follows from the id alone, so who does not hold it cannot even learn whether there is such a sandbox.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from clawplane.api.e2b import paths
from clawplane.api.e2b.answers import SandboxGone, Shape, outside, refusal
from clawplane.api.e2b.bodies import decoded, drain
from clawplane.api.e2b.envelopes import MEDIA_TYPE, only_message
from clawplane.api.e2b.sessions import House, Workspace
from clawplane.domain.access import Caller
from clawplane.domain.access import Scope as KeyScope
from clawplane.domain.errors import ClawplaneError, InvalidArgument, InvalidToken, NotFound
from clawplane.domain.sessions import Session, SessionState

T = TypeVar("T")

DAEMON_PORT: Final = 49983
INTERPRETER_PORT: Final = 49999

_HOST: Final = re.compile(rf"({DAEMON_PORT}|{INTERPRETER_PORT})-([0-9A-Za-z]{{26}})\.")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


@dataclass(slots=True)
class Visit:
    """One request to a sandbox, let in."""

    request: Request
    house: House
    session: Session
    caller: Caller
    parameters: dict[str, str]

    async def body(self, type_: type[T]) -> T:
        """Return the JSON body; an empty one is an empty object. Raises InvalidArgument."""
        return decoded(await self.request.body(), type_)

    async def files(self) -> Workspace:
        """Return the way to the sandbox's files."""
        return await self.house.sessions.files(self.caller, self.session.id)

    async def call(self, type_: type[T]) -> T:
        """Return the question of a remote call, which is a body or one envelope of a stream; raises InvalidArgument."""
        media = self.request.headers.get("content-type", "").partition(";")[0].strip()
        encoding = self.request.headers.get("content-encoding", "identity")
        if media not in ("application/json", MEDIA_TYPE) or encoding != "identity":
            raise InvalidArgument("Remote calls are understood as plain JSON only.", hint="Use the JSON codec.")
        paths.check_user(_user(self.request.headers.get("authorization", "")))
        data = await self.request.body()
        return decoded(only_message(data) if media == MEDIA_TYPE else data, type_)


Handler = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One line of the table of a sandbox's ports. `signed` names the operation that a signed address may do."""

    port: int
    method: str
    path: str
    handler: Handler
    shape: Shape
    upload: bool = False
    signed: bool = False


class SandboxRoute(BaseRoute):
    """Everything that is addressed to a sandbox."""

    def __init__(self, house: House, doors: Iterable[Door]) -> None:
        self._house = house
        self._doors = [(_pattern(door.path), door) for door in doors]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Take a request that names a sandbox."""
        if scope["type"] != "http" or _target(Headers(scope=scope)) is None:
            return Match.NONE, {}
        return Match.FULL, {}

    def url_path_for(self, name: str, /, **path_params: object) -> NoReturn:
        """Refuse: these paths have no names."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request in the shape of the port it is for."""
        request = Request(scope, receive, send)
        session_id, port = _target(request.headers) or ("", "")
        shape: Shape = "interpreter" if port == str(INTERPRETER_PORT) else "daemon"
        scope["clawplane.operation"] = f"e2b.{shape}"
        try:
            door, parameters = self._door(request, port)
            shape = door.shape
            if door.upload:
                scope["clawplane.body"].expect_upload()
            visit = await self._let_in(request, session_id, door, parameters)
            response = await door.handler(visit)
        except ClawplaneError as error:
            await drain(request)
            response = refusal(error, shape)
        await response(scope, receive, send)

    def _door(self, request: Request, port: str) -> tuple[Door, dict[str, str]]:
        if port not in (str(DAEMON_PORT), str(INTERPRETER_PORT)):
            raise outside(f"access to port {port[:16]!r} of a sandbox", "Read what listens there from inside.")
        for pattern, door in self._doors:
            if str(door.port) == port and door.method == request.method:
                found = pattern.fullmatch(request.url.path)
                if found is not None:
                    return door, found.groupdict()
        raise outside(f"{request.method} {request.url.path[:200]} on port {port} of a sandbox")

    async def _let_in(self, request: Request, session_id: str, door: Door, parameters: dict[str, str]) -> Visit:
        house = self._house
        token = request.headers.get("x-access-token") or request.headers.get("e2b-traffic-access-token", "")
        if token or not door.signed:
            house.tokens.check(session_id, token)
        else:
            _check_address(house, session_id, request)
        try:
            session = await house.sessions.known(session_id)
        except NotFound:
            raise SandboxGone(session_id) from None
        if session.state is SessionState.ENDED:
            raise SandboxGone(session_id)
        caller = Caller(key_id="", owner=session.owner, scopes=frozenset({KeyScope.SESSIONS}))
        return Visit(request, house, session, caller, parameters)


def _user(authorization: str) -> str:
    """Return the user that a remote call shall act as: the name in Basic credentials that have no password."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[0]
    except (ValueError, binascii.Error):
        raise InvalidArgument("Authorization: it is no user name in Basic form.") from None


def _check_address(house: House, session_id: str, request: Request) -> None:
    query = request.query_params
    if "signature" not in query:
        raise InvalidToken("The sandbox's access token is missing.", hint="Use the address that `download_url` makes.")
    house.tokens.check_address(
        session_id,
        signature=query["signature"],
        path=query.get("path", ""),
        operation="read" if request.method == "GET" else "write",
        user=query.get("username", ""),
        expires=query.get("signature_expiration", ""),
    )


def _target(headers: Headers) -> tuple[str, str] | None:
    """Return sandbox and port that a request is for, None for the control API."""
    named = headers.get("e2b-sandbox-id", "")
    if named:
        return named, headers.get("e2b-sandbox-port", str(DAEMON_PORT))
    found = _HOST.match(headers.get("host", ""))
    return (found[2].upper(), found[1]) if found else None  # names of hosts arrive in lower case, ids are in upper


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(_PLACEHOLDER.sub(r"(?P<\1>[^/]+)", path.replace(".", r"\.")))
