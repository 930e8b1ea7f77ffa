"""Find the control plane a command talks to, so that on one machine nothing needs to be set."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clawplane.client.http import Http
from clawplane.client.keys import KeysClient
from clawplane.client.runs import RunsClient
from clawplane.client.workers import WorkersClient
from clawplane.settings import DEFAULT_PORT, read_connection


class Api:
    """The clients of one control plane."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self.workers = WorkersClient(http)
        self.runs = RunsClient(http)
        self.keys = KeysClient(http)


@asynccontextmanager
async def connect() -> AsyncIterator[Api]:
    """Open the clients: CLAWPLANE_URL and CLAWPLANE_API_KEY first, else what the local server left for this user.

    The local key is only ever sent to the local server it belongs to.
    """
    url = os.environ.get("CLAWPLANE_URL")
    key = os.environ.get("CLAWPLANE_API_KEY")
    local = read_connection(os.environ)
    if url is None:
        url = local.url if local else f"http://127.0.0.1:{DEFAULT_PORT}"
    url = url.rstrip("/")
    if key is None and local is not None and local.url == url:
        key = local.key
    http = Http(url, key)
    try:
        yield Api(http)
    finally:
        await http.close()
