"""A recorded subtask, a server on the loopback of this host, and clients in a network of their own."""

import asyncio
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from clawplane.sdk.limits import Limits
from clawplane.sdk.server import SdkServer

sys.path.insert(0, str(Path(__file__).parent))  # raw_client stands beside the tests that use it
from raw_client import RawClient
from sdk_actors import Connect, OwnNetwork, RecordedSubtask, Serve

TEMPLATES = Path(__file__).resolve().parents[3] / "src" / "clawplane" / "sdk" / "templates"


@pytest.fixture
def recorded() -> RecordedSubtask:
    return RecordedSubtask()


@pytest.fixture
async def serve(recorded: RecordedSubtask) -> AsyncIterator[Serve]:
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
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """Open raw connections, `await connect(port, greet=..., settings=...)`, that end with the test."""
    clients: list[RawClient] = []

    async def open_one(port: int, greet: bool = True, settings: bytes = b"") -> RawClient:
        clients.append(await RawClient.connect(port, greet, settings))
        return clients[-1]

    yield open_one
    for client in clients:
        await client.close()


@pytest.fixture
def own_network(recorded: RecordedSubtask) -> OwnNetwork:
    return OwnNetwork(recorded)


@pytest.fixture
def python_sdk(tmp_path: Path) -> Path:
    """A directory with the Python SDK files, as `clawplane init python` writes them."""
    for name in ("sdk.py", "sdk_pb2.py", "sdk_pb2_grpc.py"):
        shutil.copy(TEMPLATES / "python" / name, tmp_path / name)
    return tmp_path


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test on both event loops: a runner may use either."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
