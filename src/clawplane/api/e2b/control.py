"""The control API: create, list, describe, connect to, prolong, pause, copy and end sandboxes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request
from starlette.responses import Response

from clawplane.api.e2b import shapes
from clawplane.api.e2b.answers import as_json, nothing, outside, sentence, status_of
from clawplane.api.e2b.bodies import decoded
from clawplane.api.e2b.options import lifetime, options_of
from clawplane.api.e2b.sessions import House
from clawplane.domain.access import Caller
from clawplane.domain.errors import ClawplaneError, Conflict, InvalidArgument, NotFound
from clawplane.domain.sessions import Session, SessionState

T = TypeVar("T")

_MOST_LISTED: Final = 100
_MOST_FORKS: Final = 100
_IDEMPOTENCY_KEY: Final = re.compile(r"[a-z0-9-]{1,255}")


@dataclass(slots=True)
class Order:
    """One request to the control API, let in."""

    request: Request
    house: House
    caller: Caller

    @property
    def sandbox(self) -> str:
        """Return the sandbox that the path names."""
        return str(self.request.path_params["sandboxID"])

    async def body(self, type_: type[T]) -> T:
        """Return the JSON body; an empty one is an empty object. Raises InvalidArgument."""
        return decoded(await self.request.body(), type_)

    async def session(self) -> Session:
        """Return the session that the path names; raises NotFound, also when it has ended."""
        session = await self.house.sessions.find(self.caller, self.sandbox)
        if session.state is SessionState.ENDED:
            raise NotFound(f"The sandbox {session.id!r} has ended.")
        return session

    def ends_at(self, timeout: int | None) -> int:
        """Return the moment that is `timeout` seconds from now, in ms."""
        return self.house.clock.now_ms() + lifetime(timeout) * 1000

    def opened(self, session: Session, *, status: int = 200) -> Response:
        """Return the answer that lets a client talk to a sandbox."""
        return as_json(shapes.opened(session, self.house.tokens.issue(session.id)), status=status)


Handler = Callable[[Order], Awaitable[Response]]


async def create(order: Order) -> Response:
    """Create a sandbox that ends at a fixed time, unless it was asked to pause then: sessions sleep by themselves."""
    body = await order.body(shapes.NewSandbox)
    ends_at = order.ends_at(body.timeout)
    options = options_of(body, name=_name(order.request.headers.get("idempotency-key", "")))
    sessions = order.house.sessions
    session = await sessions.create(order.caller, options, placed=False, ends_at=None if body.auto_pause else ends_at)
    try:
        await sessions.state(order.caller, session.id)
    except ClawplaneError:  # no runner took it: the client will try again, and must not find two at last
        await sessions.delete(order.caller, session.id)
        raise
    return order.opened(session, status=201)


async def describe(order: Order) -> Response:
    """Return all about a sandbox."""
    session = await order.session()
    return as_json(shapes.detailed(session, order.house.tokens.issue(session.id)))


async def list_running(order: Order) -> Response:
    """Return the running sandboxes, as older clients ask for them."""
    chosen = _chosen(order.request, await order.house.sessions.all(order.caller))
    return as_json([shapes.listed(session) for session in chosen if shapes.state_of(session) == "running"])


async def list_page(order: Order) -> Response:
    """Return one page of the sandboxes; the header `x-next-token` is there when there are more."""
    query = order.request.query_params
    limit = query.get("limit", str(_MOST_LISTED))
    if not (limit.isdecimal() and len(limit) < 5 and 1 <= int(limit) <= _MOST_LISTED):
        raise InvalidArgument(f"limit: {limit[:40]!r} is out of range.", hint=f"Use 1 to {_MOST_LISTED}.")
    chosen = _chosen(order.request, await order.house.sessions.all(order.caller))
    chosen.sort(key=_place, reverse=query.get("order", "desc") != "asc")
    token = query.get("nextToken", "")
    if token:
        chosen = _after(chosen, token, ascending=query.get("order") == "asc")
    page, rest = chosen[: int(limit)], chosen[int(limit) :]
    headers = {"x-next-token": f"{page[-1].created_at}.{page[-1].id}"} if rest else None
    return as_json([shapes.listed(session) for session in page], headers=headers)


async def set_timeout(order: Order) -> Response:
    """Let a sandbox end at another time."""
    body = await order.body(shapes.TimeoutBody)
    ends_at = order.ends_at(body.timeout)
    session = await order.session()
    await order.house.sessions.set_end(order.caller, session.id, ends_at)
    return nothing()


async def refresh(order: Order) -> Response:
    """Let a sandbox live longer, as older clients ask for it."""
    body = await order.body(shapes.Refresh)
    await _prolong(order, await order.session(), body.duration)
    return nothing()


async def connect(order: Order) -> Response:
    """Prolong a sandbox and tell how to reach it; one that sleeps wakes with its next call."""
    body = await order.body(shapes.ConnectBody)
    session = await order.session()
    if body.memory is False and session.state is SessionState.SLEEPING:
        raise outside('on_resume="reboot"', "Restart the code contexts instead.")
    await _prolong(order, session, body.timeout)
    return order.opened(session)


async def resume(order: Order) -> Response:
    """Do as `connect`, for older clients."""
    answer = await connect(order)
    answer.status_code = 201
    return answer


async def pause(order: Order) -> Response:
    """Send a sandbox to sleep; 409 when it sleeps already."""
    body = await order.body(shapes.PauseBody)
    if not body.memory:
        raise outside("a pause that keeps the files only", "Pause with memory.")
    session = await order.session()
    if session.state is SessionState.SLEEPING:
        raise Conflict(f"The sandbox {session.id!r} is paused already.")
    await order.house.sessions.sleep(order.caller, session.id, save=False)
    return nothing()


async def fork(order: Order) -> Response:
    """Copy a live sandbox; each copy is answered by itself."""
    body = await order.body(shapes.ForkBody)
    ends_at = order.ends_at(body.timeout)
    if not 1 <= body.count <= _MOST_FORKS:
        raise InvalidArgument(f"count: {body.count} is out of range.", hint=f"Use 1 to {_MOST_FORKS}.")
    session = await order.session()
    results: list[dict[str, Any]] = []
    for _ in range(body.count):
        try:
            copy = await order.house.sessions.branch(order.caller, session.id)
            copy = await order.house.sessions.set_end(order.caller, copy.id, ends_at)
        except ClawplaneError as error:
            results.append({"error": {"code": status_of(error)[0], "message": sentence(error)}})
        else:
            results.append({"sandbox": shapes.opened(copy, order.house.tokens.issue(copy.id))})
    return as_json(results, status=201)


async def kill(order: Order) -> Response:
    """End a sandbox; 404 when it has ended."""
    session = await order.session()
    await order.house.sessions.delete(order.caller, session.id)
    return nothing()


async def _prolong(order: Order, session: Session, timeout: int | None) -> None:
    """Move the end of a sandbox, but never to an earlier time."""
    ends_at = order.ends_at(timeout)
    if session.expires_at is None or ends_at > session.expires_at:
        await order.house.sessions.set_end(order.caller, session.id, ends_at)


def _name(idempotency_key: str) -> str:
    """Return the session's name for a key of the client's, so that a repeated order finds what the first one made."""
    if not idempotency_key:
        return ""
    if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise InvalidArgument(
            "Idempotency-Key: it is no key.", hint="Use 1 to 255 lower-case letters, digits, hyphens."
        )
    short = idempotency_key if len(idempotency_key) <= 64 else hashlib.sha256(idempotency_key.encode()).hexdigest()
    return f"e2b/{short}"


def _chosen(request: Request, sessions: Sequence[Session]) -> list[Session]:
    """Return the sandboxes that the query's filters leave; raises InvalidArgument."""
    query = request.query_params
    states = {name for name in query.get("state", "").split(",") if name}
    if not states <= {"running", "paused"}:
        raise InvalidArgument(f"state: {query['state'][:80]!r} is no state.", hint="Use running or paused.")
    # clients quote the pairs once before they are quoted again as a query
    wanted = {unquote(key): unquote(value) for key, value in parse_qsl(query.get("metadata", ""), True)}
    template = query.get("template", "")
    after = _moment(query.get("startedAfter", ""))
    return [
        session
        for session in sessions
        if session.state is not SessionState.ENDED
        and (not states or shapes.state_of(session) in states)
        and wanted.items() <= session.options.metadata.items()
        and template in ("", session.options.profile)
        and session.created_at > after
    ]


def _after(sessions: list[Session], token: str, *, ascending: bool) -> list[Session]:
    created, _, last = token.partition(".")
    if not (created.isdecimal() and len(created) < 20 and last):
        raise InvalidArgument("nextToken: it is not one of ours.", hint="List from the beginning.")
    seen = (int(created), last)
    return [session for session in sessions if (_place(session) > seen if ascending else _place(session) < seen)]


def _place(session: Session) -> tuple[int, str]:
    return session.created_at, session.id


def _moment(text: str) -> float:
    if not text:
        return -1
    try:
        return datetime.fromisoformat(text.replace(" ", "+")).timestamp() * 1000
    except (ValueError, OverflowError):
        raise InvalidArgument(f"startedAfter: {text[:60]!r} is no time.", hint="Use ISO 8601.") from None
