"""A launcher without isolation for the builder's own tests: real processes, real gate, real sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.launcher import Door, Outcome, proxy_variables
from clawplane.builder.tools import Tools, find_tools


@dataclass
class Step:
    argv: list[str]
    environment: dict[str, str]
    writable: list[Path]
    online: bool


@dataclass
class PlainLauncher:
    """Runs steps as ordinary processes; what a sandbox forbids is recorded in `steps` instead."""

    steps: list[Step] = field(default_factory=list)
    online: bool = True
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        readable: Sequence[Path],
        writable: Sequence[Path],
        gate: Door | None,
        on_output: Callable[[bytes], Awaitable[None]],
    ) -> Outcome:
        async with AsyncExitStack() as stack:
            variables = dict(environment)
            port = 9
            if gate is not None and self.online:
                listener = socket.create_server(("127.0.0.1", 0))
                port = listener.getsockname()[1]
                await stack.enter_async_context(gate.serving(listener))
            variables |= proxy_variables(port)
            self.steps.append(Step(list(argv), variables, list(writable), gate is not None))
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=variables,
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            assert process.stdout is not None
            self.started.set()
            try:
                while chunk := await process.stdout.read(65536):
                    await on_output(chunk)
                code = await process.wait()
            except asyncio.CancelledError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                raise
        return Outcome(code) if code >= 0 else Outcome(None, f"killed by signal {-code}")


@pytest.fixture
def launcher() -> PlainLauncher:
    return PlainLauncher()


@pytest.fixture(scope="session")
def tools() -> Tools:
    return find_tools()


@pytest.fixture
def cache(tmp_path: Path, tools: Tools) -> EnvironmentCache:
    return EnvironmentCache(tmp_path / "cache", tools)
