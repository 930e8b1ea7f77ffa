"""What the route tables are made of: operations, what they are given, and the flows they call."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from clawplane.api.openclaw.visits import TaskApiOptions
from clawplane.api.own_address import own_address
from clawplane.domain.access import Caller, Scope
from clawplane.domain.callback_ports import Notifier
from clawplane.domain.clock import Clock
from clawplane.domain.errors import InvalidSchema
from clawplane.domain.json_text import JsonError, exceeds_depth, not_finite, patiently
from clawplane.domain.ports import Blobs, Events, Queue
from clawplane.domain.wakeups import Wakeups
from clawplane.flows.access import Access
from clawplane.flows.host_tasks import HostWork
from clawplane.flows.leases import Leases
from clawplane.flows.packages import Packages
from clawplane.flows.results import Results
from clawplane.flows.runs import RunStarts
from clawplane.flows.sandbox_tokens import SandboxTokens
from clawplane.flows.sessions import Sessions

T = TypeVar("T")

MAX_JSON_DEPTH: Final = 110
"""Levels of nesting in a body: what inputs may have, and the wrapper around them."""

_MAX_TEXT: Final = 2000
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one request: sizes in bytes, times in seconds."""

    body: int = 8 << 20
    body_seconds: float = 60.0
    upload: int = 101_000_000
    """A package and the fields beside it."""
    upload_seconds: float = 1800.0


def no_json(data: bytes, error: Exception) -> InvalidSchema:
    """Return the error of a body that the strict parser refused: by its field where a number is to blame."""
    try:
        wrong = not_finite(patiently(data))
    except JsonError:
        wrong = None
    if wrong is not None:
        return InvalidSchema(wrong, hint="Send a finite number, or leave the field out.")
    return InvalidSchema(f"The request body is no JSON: {error}", hint="Send a JSON object.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """Everything the HTTP edge calls; wiring makes one.

    `owner_balance` and `month_rule` are settings of the CoreClaw wire; `public_url` (no slash at the end) replaces the
    address where a request arrived in links; `spool` is an existing directory on the disk that holds the blobs.
    """

    packages: Packages
    runs: RunStarts
    sessions: Sessions
    sandbox_tokens: SandboxTokens
    results: Results
    leases: Leases
    access: Access
    blobs: Blobs
    queue: Queue
    events: Events
    wakeups: Wakeups
    clock: Clock
    spool: Path
    host: HostWork | None = None
    """Host tasks; without them the Task API's paths are unknown."""
    notifier: Notifier | None = None
    task_api: TaskApiOptions = field(default_factory=TaskApiOptions)
    limits: HttpLimits = field(default_factory=HttpLimits)
    public_url: str | None = None
    month_rule: bool = False
    balance: str = "100.00"
    version: str = "0.1.0"


def raw_query(request: Request, name: str) -> str:
    """Return a query parameter, "" without it, in which bytes that are no UTF-8 are surrogates and not lost."""
    query: str = request.scope["query_string"].decode("latin-1")
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    return dict(pairs).get(name, "")


@dataclass(slots=True)
class Call:
    """One request on its way through an operation. `public` operations see who calls only if they ask."""

    request: Request
    flows: Flows
    request_id: str
    known: Caller | None

    @property
    def caller(self) -> Caller:
        """Return who calls; only for operations that need a key."""
        if self.known is None:
            raise AssertionError("a public operation asked for its caller")
        return self.known

    def path(self, name: str) -> str:
        """Return a path parameter."""
        return str(self.request.path_params[name])

    def text(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        value = self.request.query_params.get(name, default)
        if len(value) > _MAX_TEXT:
            raise InvalidSchema(f"{name}: it is longer than {_MAX_TEXT} characters.", hint="Shorten it.")
        return value

    def path_within(self) -> str:
        """Return the query parameter `path`; one that is no UTF-8 names nothing. Raises InvalidSchema."""
        path = raw_query(self.request, "path")
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise InvalidSchema(
                f"path: it is no UTF-8 at position {error.start}.", hint="Percent-encode the path as UTF-8."
            ) from None
        return path

    def number(self, name: str, default: int | None, *, low: int, high: int) -> int | None:
        """Return an integer query parameter; an empty one counts as absent. Raises InvalidSchema."""
        value = self.request.query_params.get(name, "").strip()
        if not value:
            return default
        if _INTEGER.fullmatch(value) is None:
            raise InvalidSchema(f"{name}: {value[:40]!r} is not an integer.", hint=f"Use {low} to {high}.")
        if not low <= int(value) <= high:
            raise InvalidSchema(f"{name}: {int(value)} is out of range.", hint=f"Use {low} to {high}.")
        return int(value)

    def flag(self, name: str) -> bool:
        """Return a yes-or-no query parameter, no by default."""
        value = self.request.query_params.get(name, "").lower()
        if value not in ("", "0", "1", "true", "false", "yes", "no"):
            raise InvalidSchema(f"{name}: {value[:40]!r} is neither true nor false.", hint="Use true or false.")
        return value in ("1", "true", "yes")

    async def body(self, type_: type[T], *, empty: bool = False) -> T:
        """Return the JSON body as `type_`; `empty` bodies stand for an object without members. Raises InvalidSchema."""
        data = await self.request.body()
        if not data.strip():
            if not empty:
                raise InvalidSchema("The request body is empty.", hint="Send a JSON object.")
            data = b"{}"
        if exceeds_depth(data, MAX_JSON_DEPTH):
            raise InvalidSchema(f"The request body nests deeper than {MAX_JSON_DEPTH} levels.", hint="Flatten it.")
        try:
            return msgspec.json.decode(data, type=type_)
        except msgspec.ValidationError as error:
            raise InvalidSchema(f"The request body does not fit: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise no_json(data, error) from None

    def url(self, path: str) -> str:
        """Return the absolute address of a path of ours."""
        return own_address(self.request, self.flows.public_url) + path


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One query parameter as the OpenAPI document describes it."""

    name: str
    kind: Literal["string", "integer", "boolean"]
    description: str
    default: str | int | None = None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One line of a route table. `scope` None means public; `body` and `data` are msgspec types for the document."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    operation_id: str
    summary: str
    handler: Handler
    tag: str
    scope: Scope | None
    query: tuple[Parameter, ...] = ()
    body: object = None
    body_required: bool = False
    upload: bool = False
    data: object = None
    media: str = "application/json"
    published: bool = True
    offered: bool = True
    """False for an operation of the wire that answers 501 here."""
