"""Find the control plane a command talks to, so that on one machine nothing needs to be set."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from clawplane.client.host_tasks import HostTasksClient
from clawplane.client.http import Http
from clawplane.client.keys import KeysClient
from clawplane.client.runs import RunsClient
from clawplane.client.sessions import SessionsClient
from clawplane.client.workers import WorkersClient
from clawplane.domain.errors import Unavailable
from clawplane.settings import DEFAULT_PORT, checked_url, read_connection


class Api:
    """The clients of one control plane."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self.workers = WorkersClient(http)
        self.runs = RunsClient(http)
        self.keys = KeysClient(http)
        self.sessions = SessionsClient(http)
        self.host = HostTasksClient(http)


class Address(NamedTuple):
    """Where the control plane is, and the key for it."""

    url: str
    key: str | None


def address() -> Address:
    """Return CLAWPLANE_URL and CLAWPLANE_API_KEY, else what the local server left for this user.

    The local key is only ever sent to the local server it belongs to.
    """
    given = os.environ.get("CLAWPLANE_URL")
    key = os.environ.get("CLAWPLANE_API_KEY")
    local = read_connection(os.environ)
    here = local.url if local else f"http://127.0.0.1:{DEFAULT_PORT}"
    url = checked_url("CLAWPLANE_URL", given) if given else here
    if not key and local is not None and local.url == url:
        key = local.key
    return Address(url, key)


@asynccontextmanager
async def connect() -> AsyncIterator[Api]:
    """Open the clients of the control plane that `address` names."""
    http = Http(*address())
    try:
        yield Api(http)
    finally:
        await http.close()


def tell_lost(note: Callable[[str], object]) -> Callable[[Unavailable], None]:
    """Return what says, with `note`, that a followed log is asked for again."""

    def lost(error: Unavailable) -> None:
        note(f"{error.message} Trying again for a minute.")

    return lost
