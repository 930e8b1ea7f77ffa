"""Who plays with the SDK server in these tests: a recorded subtask, and commands in a network of their own."""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from raw_client import RawClient

from clawplane.sdk import subtask
from clawplane.sdk.server import SdkServer

TESTS = Path(__file__).resolve().parents[2]

Serve = Callable[..., Awaitable[tuple[SdkServer, int]]]
Connect = Callable[..., Awaitable[RawClient]]


class RecordedSubtask:
    """Keep whatever an SDK says; `hold` keeps pushes waiting, `outcome` answers them."""

    def __init__(self, input_json: str = '{"a": 1}') -> None:
        self.given_input = input_json
        self.headers: list[subtask.HeaderItem] = []
        self.rows: list[str] = []
        self.logs: list[tuple[int, str]] = []
        self.outcome = subtask.ACCEPTED
        self.hold: asyncio.Event | None = None
        self.pushing = 0
        self.most_pushing = 0
        self.failure: Exception | None = None

    def input_json(self) -> str:
        return self.given_input

    async def set_header(self, items: list[subtask.HeaderItem]) -> None:
        self.headers = items

    async def push(self, row_json: str) -> subtask.PushOutcome:
        if self.failure:
            raise self.failure
        self.rows.append(row_json)
        self.pushing += 1
        self.most_pushing = max(self.most_pushing, self.pushing)
        try:
            if self.hold:
                await self.hold.wait()
        finally:
            self.pushing -= 1
        return self.outcome

    async def log(self, level: int, text: str) -> None:
        self.logs.append((level, text))


class OwnNetwork:
    """Run commands as a sandbox would: own loopback, our server on its 127.0.0.1:20086."""

    def __init__(self, recorded: RecordedSubtask) -> None:
        self._recorded = recorded

    async def run(self, *command: str, cwd: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
        """Run `command` to its end; return exit code and output."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(TESTS / "own_network.py"), str(theirs.fileno()), *command,
                cwd=cwd, env={**os.environ, **(env or {})}, pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        with ours:
            received = await asyncio.to_thread(socket.recv_fds, ours, 16, 1)
            if not received[1]:
                output, _ = await process.communicate()
                pytest.skip(f"this host gives no network namespace to this user: {output.decode()[-200:]}")
            server = SdkServer(self._recorded)
            await server.start(socket.socket(fileno=received[1][0]))
            ours.sendall(b"g")
            try:
                output, _ = await asyncio.wait_for(process.communicate(), 60)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                await server.stop()
        assert process.returncode is not None
        return process.returncode, output.decode()
