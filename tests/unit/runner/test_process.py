"""The runner as a process of its own: killed, stopped and continued, drained by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clawplane.domain.leases import JobKind
from clawplane.domain.runs import RunSystem, SubtaskSpec
from clawplane.domain.workers import Environment
from clawplane.link.server import LinkLimits

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="the Worker here is a Node program")

PROGRAM = """
import asyncio, sys
from pathlib import Path
from clawplane.runner.daemon import run_runner
from clawplane.runner.settings import RunnerSettings
url, token, data = sys.argv[1:]
asyncio.run(run_runner(RunnerSettings(url=url, token=token, data=Path(data), name="process", drain_seconds=5)))
"""
WORKER = """
process.title = '{mark}';
process.on('SIGTERM', () => process.exit(0));
console.log('up');
setInterval(() => console.log('tick'), 20);
"""


@pytest.fixture
def limits() -> LinkLimits:
    return LinkLimits(heartbeat_ms=100, silence_ms=5000, close_within=0.5)


@pytest.fixture
async def daemon(server, settings, plane) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, server.url, settings.token, str(settings.data)
    )
    await plane.changes.until(lambda: plane.free_slots, "the runner offers its slots")
    yield process
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def started(plane, make_package, mark: str):
    key, digest = plane.put_blob(make_package(main__js=WORKER.format(mark=mark)))
    spec = SubtaskSpec(
        run="RUN",
        index=0,
        worker="WORKER",
        version="v1.0.0",
        language="node",
        package_key=key,
        package_sha256=digest,
        environment=Environment(fingerprint="", lock_key=""),
        input=b"{}",
        system=RunSystem(cpus=1.0),
    )
    offer = plane.offer(JobKind.SUBTASK, spec)
    await plane.changes.until(lambda: "up" in plane.lines(offer.job), "the Worker runs")
    return offer


def guest(mark: str) -> int:
    """Return a descriptor of the Worker's process on this host."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                return os.pidfd_open(int(entry.name))
    raise AssertionError("the Worker's process was not found")


async def gone(pidfd: int) -> None:
    """Wait until a process has ended."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(30):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


async def test_a_runner_that_is_killed_takes_its_workers_along(daemon, plane, make_package) -> None:
    mark = uuid.uuid4().hex[:12]
    await started(plane, make_package, mark)
    worker = guest(mark)
    daemon.kill()
    await gone(worker)


async def test_a_runner_that_was_stopped_and_continued_kills_its_worker_and_stores_nothing_more(
    daemon, plane, make_package
) -> None:
    mark = uuid.uuid4().hex[:12]
    offer = await started(plane, make_package, mark)
    worker = guest(mark)
    daemon.send_signal(signal.SIGSTOP)
    await plane.changes.until(lambda: plane.connection is None, "the silence is noticed")
    stored = plane.stored[offer.job]
    daemon.send_signal(signal.SIGCONT)
    await gone(worker)
    await plane.changes.until(lambda: plane.connections == 2, "it links anew")
    assert plane.stored[offer.job] == stored
    greetings = [value for word, value in plane.said if word == "connected"]
    assert greetings[-1][1] == ()
    assert offer.job not in plane.ends


async def test_sigterm_drains_and_gives_back_what_does_not_end_in_time(daemon, plane, make_package) -> None:
    mark = uuid.uuid4().hex[:12]
    offer = await started(plane, make_package, mark)
    daemon.terminate()
    await plane.changes.until(lambda: plane.is_draining, "draining is told")
    daemon.terminate()
    async with asyncio.timeout(30):
        assert await daemon.wait() == 0
    assert plane.ends[offer.job].outcome.reason == "setup"


async def test_sigterm_ends_an_idle_runner_at_once(daemon) -> None:
    daemon.terminate()
    async with asyncio.timeout(30):
        assert await daemon.wait() == 0
