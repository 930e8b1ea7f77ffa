"""The Task API over a real store and a real server in this process, with clients that see every byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from listening import Server
from starlette.responses import JSONResponse

from clawplane.api.heads import BoundedHead
from clawplane.api.metrics import Metrics
from clawplane.api.openclaw.dispatch import TaskApi
from clawplane.api.openclaw.limits import RateLimit
from clawplane.api.openclaw.visits import House, TaskApiOptions
from clawplane.domain.access import Scope
from clawplane.domain.callback_ports import Notifier
from clawplane.domain.clock import Clock, SystemClock
from clawplane.domain.ids import JobIds
from clawplane.flows.access import Access
from clawplane.flows.environments import Environments
from clawplane.flows.host_tasks import HostRules, HostWork
from clawplane.flows.leases import Leases
from clawplane.flows.pollers import Pollers
from clawplane.flows.polling_runners import PollingRunners
from clawplane.store import Store, open_store
from clawplane.store.sealing import KeyFileSealing

TOKEN = "worker-token-" + "w" * 32
CLIENT = "client-token-" + "c" * 32
RUNNER = "runner-token-" + "r" * 32


@dataclass
class Answer:
    """What came back; `raw` is every byte of the body."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Client:
    """One keep-alive connection that writes and reads plain HTTP/1.1."""

    address: tuple[str, int]
    token: str | None = TOKEN
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.reader is None or self.writer is None or self.writer.is_closing():
            self.reader, self.writer = await asyncio.open_connection(*self.address)
        return self.reader, self.writer

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = "",
    ) -> Answer:
        await self.send(method, path, body, raw=raw, headers=headers, token=token)
        async with asyncio.timeout(20):
            return await self.answer(method)

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = "",
    ) -> None:
        _, writer = await self.open()
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        told = {"Host": "plane.test", "Content-Type": "application/json", **(headers or {})}
        known = self.token if token == "" else token
        if known is not None and "Authorization" not in told:
            told["Authorization"] = f"Bearer {known}"
        if "Transfer-Encoding" not in told and (method == "POST" or content):
            told.setdefault("Content-Length", str(len(content)))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(head.encode("latin-1") + b"\r\n" + content)
        await writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        assert self.reader is not None
        assert self.writer is not None
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        size = int(headers.get("content-length", "0"))
        body = await self.reader.readexactly(size) if size and method != "HEAD" else b""
        if headers.get("connection") == "close":
            await self.close()
        return Answer(int(lines[0].split()[1]), headers, body)

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.ask("POST", path, body, **more)

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)
        self.reader = self.writer = None


@dataclass
class TaskPlane:
    """The server, and what is behind it."""

    house: House
    store: Store
    server: Server
    address: tuple[str, int]
    clients: list[Client] = field(default_factory=list)

    def client(self, token: str | None = TOKEN) -> Client:
        client = Client(self.address, token)
        self.clients.append(client)
        return client

    async def until_parked(self, polls: int) -> None:
        """Wait until this many polls are parked."""
        async with asyncio.timeout(10):
            while self.house.host.pollers.parked != polls:
                await asyncio.sleep(0.001)


async def _elsewhere(scope: Any, receive: Any, send: Any) -> None:
    await JSONResponse({"error": "not_found", "message": "not found"}, 404)(scope, receive, send)


@asynccontextmanager
async def task_plane(
    directory: Path,
    *,
    clock: Clock | None = None,
    notifier: Notifier | None = None,
    options: TaskApiOptions | None = None,
    rules: HostRules | None = None,
) -> AsyncIterator[TaskPlane]:
    """Yield a Task API server over the store in `directory`."""
    clock = clock or SystemClock()
    store = await open_store(directory, clock=clock)
    ids = JobIds()
    ids.advance_past(await store.queue.highest_job())
    access = Access(store.keys, clock, owner="owner")
    await access.admit(TOKEN, name="worker token", scopes={Scope.HOST, Scope.HOST_RUNNER})
    await access.admit(CLIENT, name="client token", scopes={Scope.HOST})
    await access.admit(RUNNER, name="runner token", scopes={Scope.HOST_RUNNER})
    leases = Leases(
        store.queue,
        store.runs,
        Environments(store.workers, store.blobs, store.wakeups, clock),
        store.host_tasks,
        wakeups=store.wakeups,
        clock=clock,
    )
    host = HostWork(
        tasks=store.host_tasks,
        events=store.task_events,
        conversations=store.agent_sessions,
        outbox=store.outbox,
        pollers=Pollers(store.host_tasks, store.wakeups, clock),
        leases=leases,
        sealing=KeyFileSealing.open(directory / "seal.key"),
        wakeups=store.wakeups,
        clock=clock,
        ids=ids,
        rules=rules or HostRules(),
    )
    options = options or TaskApiOptions(database=directory / "clawplane.db")
    house = House(
        host=host,
        runners=PollingRunners(host, store.queue, clock),
        access=access,
        wakeups=store.wakeups,
        clock=clock,
        limit=RateLimit(clock, per_second=options.requests_per_second, burst=options.burst),
        notifier=notifier,
        options=options,
    )
    app = TaskApi(_elsewhere, house=house, metrics=Metrics())
    server = Server(
        uvicorn.Config(
            app,
            port=0,
            http=BoundedHead,
            log_config=None,
            access_log=False,
            lifespan="off",
            backlog=2048,
            timeout_graceful_shutdown=2,
        )
    )
    await leases.start()
    await host.pollers.start()
    serving = asyncio.create_task(server.serve())
    await server.listens.wait()
    plane = TaskPlane(house, store, server, server.servers[0].sockets[0].getsockname()[:2])
    try:
        yield plane
    finally:
        for client in plane.clients:
            await client.close()
        server.should_exit = True
        await serving
        await host.pollers.close()
        await leases.close()
        await store.close()


__all__ = ["CLIENT", "RUNNER", "TOKEN", "Answer", "Client", "TaskPlane", "task_plane"]
