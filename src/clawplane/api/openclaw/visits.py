"""What the Task API's route table is made of: lines, what their handlers are given, and what they answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from clawplane.api.delivery import EXTENSION, Connection
from clawplane.api.openclaw.bodies import read_json
from clawplane.api.openclaw.limits import RateLimit
from clawplane.api.own_address import own_address
from clawplane.domain.access import Caller, Scope
from clawplane.domain.callback_ports import Notifier
from clawplane.domain.clock import Clock
from clawplane.domain.wakeups import Wakeups
from clawplane.flows.access import Access
from clawplane.flows.host_tasks import HostWork
from clawplane.flows.polling_runners import PollingRunners

_encode: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


class TaskApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator sets of this wire.

    `database` is the path that answers report; `strict_paths` refuses `..` that changes a path; a rate of 0 is no
    limit. The roots are where sessions of the agent CLIs lie, on the host or as a container mounts them.
    """

    database: Path = Path("clawplane.db")
    strict_paths: bool = False
    requests_per_second: float = 0.0
    burst: int = 100
    claude_root: Path = Path("/host-claude-projects")
    codex_root: Path = Path("/host-codex-sessions")


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Everything the handlers call."""

    host: HostWork
    runners: PollingRunners
    access: Access
    wakeups: Wakeups
    clock: Clock
    limit: RateLimit
    notifier: Notifier | None = None
    options: TaskApiOptions = field(default_factory=TaskApiOptions)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `undo` is called when it did not reach the client; `stream` is sent instead of the body."""

    body: bytes
    status: int = 200
    undo: Callable[[], Awaitable[object]] | None = None
    stream: AsyncIterator[bytes] | None = None
    media: bytes = b"application/json; charset=utf-8"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Query:
    """The parameters of a request; what a repeated one means depends on what is asked for."""

    def __init__(self, text: bytes) -> None:
        self._pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True) if text else []

    def first(self, name: str) -> str | None:
        """Return the first value, for integers."""
        return next((value for key, value in self._pairs if key == name), None)

    def only(self, name: str) -> str:
        """Return the one value, for filters; a repeated parameter counts as absent."""
        values = [value for key, value in self._pairs if key == name]
        return values[0].strip() if len(values) == 1 else ""


@dataclass
class Visit:
    """One request on its way through a handler; `part` is the variable segment of its path, decoded."""

    house: House
    scope: Mapping[str, Any]
    receive: Receive
    headers: Mapping[bytes, bytes]
    part: str = ""
    known: Caller | None = None
    read: bool = False

    @property
    def caller(self) -> Caller:
        """Return who calls; only where a token is needed."""
        if self.known is None:
            raise AssertionError("an open path asked for its caller")
        return self.known

    @cached_property
    def query(self) -> Query:
        """Return the query parameters."""
        return Query(self.scope["query_string"])

    @property
    def address(self) -> str:
        """Return the address of this server as the request reached it; see api/own_address."""
        return own_address(Request(dict(self.scope)), None)

    @property
    def connection(self) -> Connection | None:
        """Return the client's connection, where the server knows it."""
        known: Connection | None = self.scope.get("extensions", {}).get(EXTENSION)
        return known

    async def json(self) -> dict[str, Any]:
        """Return the members of the body."""
        connection = self.connection
        whole = connection is not None and connection.whole
        return await read_json(self.headers, self.receive, self._taken, whole=whole)

    def _taken(self) -> None:
        self.read = True

    def gone(self) -> Awaitable[object]:
        """Return what ends when nobody waits for the answer any more."""
        connection = self.connection
        return self._disconnected() if connection is None else connection.gone()

    async def _disconnected(self) -> None:
        message = await self.receive()
        while message["type"] != "http.disconnect":
            message = await self.receive()


Handler = Callable[[Visit], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the route table. A path ends in at most one `{}`; `scope` None is open to everybody.

    `head` answers HEAD where the handler changes something; `limited` False exempts from the rate limit. `fallback` is
    answered to a caller who may ask, a moment later, where anything else fails.
    """

    method: str
    path: str
    name: str
    handler: Handler
    scope: Scope | None
    head: Handler | None = None
    limited: bool = True
    fallback: Reply | None = None


def answer(value: object, status: int = 200, undo: Callable[[], Awaitable[object]] | None = None) -> Reply:
    """Return a value as JSON text in ASCII, which can say lone surrogates as well."""
    return Reply(_encode(value).encode(), status, undo)


def text_of_json(value: object) -> str:
    """Return a value as compact JSON text."""
    return _encode(value)
