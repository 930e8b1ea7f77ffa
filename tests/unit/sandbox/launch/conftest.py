"""Open a real sandbox per test and run small guests in it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.launch import Process, Sandbox, Zygote
from clawplane.sandbox.policy import Overlay, Policy, Verdict

PATIENCE = 40.0
PYTHON = os.path.realpath(sys.executable)


@dataclass(frozen=True)
class Ended:
    """What came out of a guest."""

    stdout: str
    stderr: str
    verdict: Verdict


class Guests:
    """Start guests with few words; `directory` is shown writable at /app."""

    python = PYTHON

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self.directory = directory
        self.zygote: Zygote | None = None

    def policy(self, **changes: Any) -> Policy:
        mounts = (Overlay(str(self.directory), "/app"), *changes.pop("mounts", ()))
        return Policy(**{"mounts": mounts, "working_directory": "/app", **changes})

    async def start(self, *argv: str, **changes: Any) -> Process:
        return await self.sandbox.run(self.policy(**changes), argv)

    async def start_python(self, source: str, *, name: str = "main.py", **changes: Any) -> Process:
        (self.directory / name).write_text(source)
        if self.zygote is None:
            self.zygote = await self.sandbox.zygote(key="tests", python=PYTHON)
        return await self.sandbox.run_python(
            self.zygote, self.policy(**changes), f"/app/{name}", interpreter=PYTHON, site_directories=()
        )

    async def run(self, *argv: str, **changes: Any) -> Ended:
        return await self.finish(await self.start(*argv, **changes))

    async def run_python(self, source: str, **changes: Any) -> Ended:
        return await self.finish(await self.start_python(source, **changes))

    async def finish(self, process: Process) -> Ended:
        caught: dict[str, bytes] = {"stdout": b"", "stderr": b""}

        async def read() -> None:
            async for stream, block in process.output():
                caught[stream] += block

        async with asyncio.timeout(PATIENCE):
            _, verdict = await asyncio.gather(read(), process.wait())
        return Ended(caught["stdout"].decode(), caught["stderr"].decode(), verdict)

    async def read_until(self, process: Process, word: bytes) -> bytes:
        seen = b""
        async with asyncio.timeout(PATIENCE):
            async for _stream, block in process.output():
                seen += block
                if word in seen:
                    return seen
        raise AssertionError(f"{word!r} never came, only {seen!r}")


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of its own, closed afterwards."""
    opened = await Sandbox.open(state_directory=tmp_path / "state")
    yield opened
    await opened.close()


@pytest.fixture
def guests(sandbox: Sandbox, tmp_path: Path) -> Guests:
    """Start guests in `sandbox`."""
    directory = tmp_path / "package"
    directory.mkdir()
    return Guests(sandbox, directory)
