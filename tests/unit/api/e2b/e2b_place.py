"""A server that speaks E2B on a real port, over sessions that follow a script, and the published clients for it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import uvicorn
from e2b_code_interpreter import E2B
from scripted_sandboxes import ScriptedSessions
from starlette.applications import Starlette
from starlette.middleware import Middleware

from clawplane.api.calls import HttpLimits
from clawplane.api.e2b.routes import routes
from clawplane.api.e2b.sessions import House
from clawplane.api.edge import Edge
from clawplane.api.heads import BoundedHead
from clawplane.api.metrics import Metrics
from clawplane.domain.access import Scope
from clawplane.domain.clock import SystemClock
from clawplane.flows.access import Access
from clawplane.flows.sandbox_tokens import SandboxTokens
from clawplane.store import open_store

KEY = "scraper_api_" + "a" * 48
OTHER_KEY = "scraper_api_" + "b" * 48
READER_KEY = "scraper_api_" + "c" * 48


class Place:
    """The server and its script; `client(key)` makes a client for it."""

    def __init__(self, directory: Path) -> None:
        self.sessions = ScriptedSessions()
        self.url = ""
        self._directory = directory
        self._ready = threading.Event()
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        """End the server."""
        assert self._server is not None
        self._server.should_exit = True
        self._server.force_exit = True  # clients keep their connections open
        self._thread.join(20)

    def client(self, key: str = KEY) -> E2B:
        """Return a client that is bound to this server."""
        return E2B(api_key=key, api_url=self.url, sandbox_url=self.url)

    async def _serve(self) -> None:
        clock = SystemClock()
        store = await open_store(self._directory, clock=clock)
        try:
            access = Access(store.keys, clock)
            await access.admit(KEY, name="test", scopes={Scope.SESSIONS}, owner="one")
            await access.admit(OTHER_KEY, name="other", scopes={Scope.SESSIONS}, owner="two")
            await access.admit(READER_KEY, name="reader", scopes={Scope.READ}, owner="one")
            tokens = SandboxTokens(store.keys, clock)
            await tokens.prepare()
            house = House(sessions=self.sessions, access=access, tokens=tokens, clock=clock)
            app = Starlette(routes=routes(house), middleware=[Middleware(Edge, limits=HttpLimits(), metrics=Metrics())])
            config = uvicorn.Config(
                app, port=0, http=BoundedHead, lifespan="off", access_log=False, log_config=None, ws="none"
            )
            config.timeout_graceful_shutdown = 1
            self._server = uvicorn.Server(config)
            self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            serving = asyncio.create_task(self._server.serve())
            while not self._server.started:
                await asyncio.sleep(0.01)
            port = self._server.servers[0].sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self._ready.set()
            await serving
        finally:
            await store.close()
