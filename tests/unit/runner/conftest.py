"""A runner against the control plane in memory: with scripted jobs, or with the real sandbox."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from clawplane.domain.clock import SystemClock
from clawplane.domain.ids import RunnerId, new_ulid
from clawplane.domain.leases import Offer
from clawplane.link.connection import Waits
from clawplane.link.protocol import Identity
from clawplane.runner.daemon import run_runner
from clawplane.runner.runner import Runner
from clawplane.runner.settings import RunnerSettings
from clawplane.runner.shipping import Shipper

TOKEN = "runner-token-of-the-tests"


def package(**files: str | bytes) -> bytes:
    """Return a ZIP of files; double underscores in names stand for dots."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name.replace("__", "."))
            info.external_attr = 0o100755 << 16
            archive.writestr(info, content)
    return made.getvalue()


@pytest.fixture
def make_package() -> Callable[..., bytes]:
    """Pack files into a ZIP."""
    return package


@pytest.fixture
def settings(server, tmp_path: Path) -> RunnerSettings:
    """A runner's settings for the server of this test."""
    return RunnerSettings(
        url=server.url, token=TOKEN, data=tmp_path / "runner", name="test", slots=2, build_slots=1, sessions=False
    )


@pytest.fixture
def identity() -> Identity:
    """Who the runner is."""
    return Identity(
        runner=RunnerId(new_ulid(SystemClock().now_ms())),
        name="test",
        version="0",
        capabilities=("workers", "builds"),
        labels={},
        slots={"workers": 2, "builds": 1},
    )


@pytest.fixture
async def start_runner(settings, identity, plane) -> AsyncIterator[Callable[..., Awaitable[Runner]]]:
    """Start runners with scripted jobs; they are ended with the test."""
    tasks: list[asyncio.Task[None]] = []

    async def start(make_job: Callable[[Offer, Shipper], object], *, clock=None, waits=None, **changes) -> Runner:
        runner = Runner(settings, identity, make_job, clock=clock or SystemClock(), waits=waits or Waits())
        runner.task = asyncio.create_task(runner.serve())
        runner.task.add_done_callback(lambda _: plane.changes.note())
        tasks.append(runner.task)
        before = plane.connections
        await plane.changes.until(lambda: plane.connections > before or runner.task.done(), "the runner connects")
        return runner

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def real_runner(settings, plane) -> AsyncIterator[Runner]:
    found: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run_runner(settings, serving=found.set_result))
    await asyncio.wait([task, found], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    runner = found.result()
    await plane.changes.until(lambda: plane.free_slots, "the runner offers its slots")
    yield runner
    runner.drain()
    runner.drain()
    await task
