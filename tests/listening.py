"""A real HTTP server in a test's own process that says when it listens and ends as soon as it can.

uvicorn looks every tenth of a second whether it is to end, and gives its connections another tenth to do so. A daemon
does that once; here every test would.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn

_LOOK_SECONDS = 0.002
_ROUNDS = 20
"""So many times may the clients in this process see that they were hung up on, and let go of their sockets."""


class Server(uvicorn.Server):
    """A server for one test; `should_exit` ends it from its own thread at once, from others within uvicorn's tenth."""

    def __init__(self, config: uvicorn.Config) -> None:
        self.listens = asyncio.Event()
        self._over = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        return self._over.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._over.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    async def main_loop(self) -> None:
        tenths = 0
        while not await self.on_tick(tenths):
            tenths += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:
                    await asyncio.sleep(_LOOK_SECONDS)
                for server in self.servers:
                    await server.wait_closed()
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel(msg="Task cancelled, timeout graceful shutdown exceeded")
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
        await self.lifespan.shutdown()
