"""A recorded subtask, a server on the loopback of this host, and clients in a network of their own."""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from clawplane.sdk import subtask
from clawplane.sdk.limits import Limits
from clawplane.sdk.server import SdkServer

sys.path.insert(0, str(Path(__file__).parent))  # raw_client stands beside the tests that use it
from raw_client import RawClient

TESTS = Path(__file__).resolve().parents[2]
TEMPLATES = TESTS.parent / "src" / "clawplane" / "sdk" / "templates"


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


@pytest.fixture
def recorded() -> RecordedSubtask:
    return RecordedSubtask()


@pytest.fixture
async def serve(recorded: RecordedSubtask) -> AsyncIterator[Callable[..., Awaitable[tuple[SdkServer, int]]]]:
    """Start a server on a free port of this host: `server, port = await serve(limits=..., max_message=...)`."""
    servers: list[SdkServer] = []

    async def start(limits: Limits | None = None, max_message: int = 64 << 20) -> tuple[SdkServer, int]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        port = listener.getsockname()[1]
        server = SdkServer(recorded, limits=limits, max_message=max_message)
        servers.append(server)
        await server.start(listener)
        return server, port

    yield start
    for server in servers:
        await server.stop(drain_seconds=0)


@pytest.fixture
async def connect(serve: object) -> AsyncIterator[Callable[..., Awaitable[RawClient]]]:
    """Open raw connections, `await connect(port, greet=..., settings=...)`, that end with the test."""
    clients: list[RawClient] = []

    async def open_one(port: int, greet: bool = True, settings: bytes = b"") -> RawClient:
        clients.append(await RawClient.connect(port, greet, settings))
        return clients[-1]

    yield open_one
    for client in clients:
        await client.close()


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


@pytest.fixture
def own_network(recorded: RecordedSubtask) -> OwnNetwork:
    return OwnNetwork(recorded)


@pytest.fixture
def python_sdk(tmp_path: Path) -> Path:
    """A directory with the Python SDK files, as `clawplane init python` writes them."""
    for name in ("sdk.py", "sdk_pb2.py", "sdk_pb2_grpc.py"):
        shutil.copy(TEMPLATES / "python" / name, tmp_path / name)
    return tmp_path
