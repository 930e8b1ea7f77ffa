"""A client that hangs up in the middle of an exec, over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import uvicorn
from plane import ADMIN, Plane, ScriptedRunner, plane

from clawplane.api.heads import BoundedHead
from clawplane.domain.asks import Interrupt, Nothing
from clawplane.domain.sessions import ExecRequest, ExecResult
from clawplane.link.asking import Asking

TIME_LIMIT = 10.0


class Served:
    """A control plane behind a real server, and a runner whose execs run until they are interrupted."""

    def __init__(self, here: Plane, runner: ScriptedRunner, port: int) -> None:
        self.here, self.runner, self.port = here, runner, port
        self.started: asyncio.Queue[Asking] = asyncio.Queue()
        self.interrupted: asyncio.Queue[str] = asyncio.Queue()
        self.running: dict[str, Asking] = {}
        runner.play = self.play

    def play(self, asking: Asking) -> None:
        if asking.method == "exec":
            self.running[msgspec.msgpack.decode(asking.body, type=ExecRequest).id] = asking
            self.started.put_nowait(asking)
            return
        exec_id = msgspec.msgpack.decode(asking.body, type=Interrupt).exec_id
        ended = ExecResult(exec_id=exec_id, session_id="", status="cancelled", error="KeyboardInterrupt")
        self.running.pop(exec_id).answer(msgspec.msgpack.encode(ended))
        asking.answer(msgspec.msgpack.encode(Nothing()))
        self.interrupted.put_nowait(exec_id)

    async def request(self, **body: object) -> asyncio.StreamWriter:
        """Send an exec and wait until it runs."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps({"code": "wait"} | body).encode()
        writer.write(
            b"POST /v1/tools/execute_python HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n"
            b"Authorization: Bearer %s\r\n\r\n%s" % (len(data), ADMIN.encode(), data)
        )
        async with asyncio.timeout(TIME_LIMIT):
            await self.started.get()
            if body.get("stream", "none") != "none":
                await reader.readuntil(b"exec_id")
        return writer


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with plane(tmp_path) as here:
        runner = here.runner(capabilities=("sessions",), slots={"sessions": 4})
        await runner.connect()
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(here.app, http=BoundedHead, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        )
        serving = asyncio.create_task(server._serve([listener]))  # without taking over the signals
        yield Served(here, runner, listener.getsockname()[1])
        server.should_exit = True
        await serving


@pytest.mark.parametrize("stream", ["none", "sse", "ndjson"])
async def test_a_client_that_hangs_up_ends_its_exec(served: Served, stream: str) -> None:
    writer = await served.request(stream=stream)
    (exec_id,) = served.running
    writer.transport.abort()
    async with asyncio.timeout(TIME_LIMIT):
        assert await served.interrupted.get() == exec_id


async def test_a_client_that_hangs_up_does_not_end_a_detached_exec(served: Served) -> None:
    (await served.request(detached=True)).transport.abort()
    attached = await served.request()
    detached_id, attached_id = served.running
    attached.transport.abort()
    async with asyncio.timeout(TIME_LIMIT):
        assert await served.interrupted.get() == attached_id
    assert detached_id in served.running
