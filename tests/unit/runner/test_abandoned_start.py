"""A runner that is told to stop before its start is over goes in order, and takes its trial of the host along."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, os, signal, sys, tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from clawplane.runner import daemon
from clawplane.runner.host.settings import HostSettings
from clawplane.runner.settings import RunnerSettings

@asynccontextmanager
async def endless(*_):
    "The last step of a start, which does not end; the trial is under way beside it."
    while not any(Path(tempfile.gettempdir()).glob("clawplane-selftest.*/canary")):
        await asyncio.sleep(0)
    print("begun", flush=True)
    await asyncio.Event().wait()
    yield

daemon.host_work = endless
settings = RunnerSettings(
    url="http://127.0.0.1:9", token="t" * 32, data=Path(sys.argv[1]), name="abandoned", host=HostSettings()
)
asyncio.run(daemon.run_runner(settings))
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_runner_that_is_ended_while_it_starts_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(tmp_path / "data"),
        stdout=asyncio.subprocess.PIPE,
        env={"TMPDIR": str(place), "PATH": "/usr/bin:/bin"},
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        assert await process.stdout.read() == b"ended\n"
        assert await process.wait() == 0
    assert list(place.iterdir()) == []
