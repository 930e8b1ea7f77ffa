"""The server's own process: how it stops with polls open, and starts again at once on the same port and files."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from task_plane import TOKEN, Client

PATIENCE = 30.0
"""Seconds; these machines are shared, the bound that counts is the one that is asserted."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@asynccontextmanager
async def serving(directory: Path, port: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client]]:
    """Yield a server process that answers."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "WORKER_TOKEN": TOKEN,
        "CLAWPLANE_DATA": str(directory / "data"),
        "CLAWPLANE_BIND": "127.0.0.1",
        "CLAWPLANE_PORT": str(port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clawplane",
        "serve",
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    client = Client(("127.0.0.1", port))
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            await process.stderr.readuntil(str(port).encode())
            while (await client.get("/health")).status != 200:
                pass
        yield process, client
    finally:
        await client.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_a_server_that_is_told_to_stop_answers_open_polls_and_can_start_again_at_once(
    tmp_path: Path, sign: signal.Signals
) -> None:
    port = free_port()
    async with serving(tmp_path, port) as (process, client):
        task = (await client.post("/codex", {"prompt": "p", "sessionId": "s"})).json["taskId"]
        assert (await client.get("/worker/poll")).json["id"] == task
        pollers = [Client(client.address) for _ in range(20)]
        for poller in pollers:
            await poller.send("GET", "/worker/poll?wait=60000")
        await client.get("/tasks/stats")
        began = asyncio.get_running_loop().time()
        process.send_signal(sign)
        try:
            async with asyncio.timeout(PATIENCE):
                answers = [await poller.answer() for poller in pollers]
                code = await process.wait()
        finally:
            for poller in pollers:
                await poller.close()
        took = asyncio.get_running_loop().time() - began
    assert {(answer.status, answer.raw) for answer in answers} == {(200, b"null")}
    assert (code, took < 3.0) == (0, True), took
    async with serving(tmp_path, port) as (_, client):
        assert (await client.get("/worker/poll?wait=1000")).json["id"] == task
