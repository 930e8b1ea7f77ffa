"""A control plane with host tasks on a real socket, since streams are only streams over one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn

TESTS = str(Path(__file__).parents[3])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

from listening import Server  # noqa: E402 - found through the lines above
from plane import ADMIN, Plane, plane  # noqa: E402


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path, host=True) as opened:
        yield opened


@pytest.fixture
async def url(here: Plane) -> AsyncIterator[str]:
    """Serve it; its clients' streams are cut at the end."""
    config = uvicorn.Config(here.app, port=0, log_config=None, access_log=False, lifespan="off")
    config.timeout_graceful_shutdown = 1
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    await server.listens.wait()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


@pytest.fixture
async def api(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=url, headers={"Authorization": f"Bearer {ADMIN}"}, timeout=20, trust_env=False
    ) as client:
        yield client
