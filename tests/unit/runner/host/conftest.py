"""Host tasks with real processes and files, in a home directory of their own."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clawplane.domain.clock import SystemClock
from clawplane.domain.host_tasks import Command, FileEdit, FileRead, FileWrite, HostSpec, TaskId, TaskReport, TaskType
from clawplane.runner.host.execute import execute
from clawplane.runner.host.house import HostHouse, open_house
from clawplane.runner.host.settings import HostSettings

TYPES = {
    Command: TaskType.COMMAND,
    FileWrite: TaskType.FILE_WRITE,
    FileRead: TaskType.FILE_READ,
    FileEdit: TaskType.FILE_EDIT,
}
SECRET = "a-runner-token-that-is-secret"


def is_gone(pid: int, seconds: float = 15.0) -> bool:
    """Wait for a process to end, for so many seconds at most."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(handle)


class Heard:
    """What a task told while it ran; `until` waits for a text to be there so many times."""

    def __init__(self) -> None:
        self.text = {"stdout": "", "stderr": ""}
        self._changed = asyncio.Event()

    def __call__(self, stream: str, text: str) -> None:
        self.text[stream] += text
        self._changed.set()

    async def until(self, wanted: str, stream: str = "stdout", *, count: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.text[stream].count(wanted) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def environ(home: Path, tmp_path: Path) -> dict[str, str]:
    """The runner's environment, secrets included."""
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "WORKER_SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "ANTHROPIC_API_KEY": "kept-provider-key",
        "WORKER_TOKEN": "worker-token-worker-token",
        "CALLBACK_BOT_TOKEN": "bot-token-bot-token",
        "DISCORD_BOT_TOKEN": "discord-token-discord",
        "OPENCLAW_HOOKS_TOKEN": "hooks-token-hooks-token",
        "CLAWPLANE_RUNNER_TOKEN": SECRET,
        "OTHER_NAME": f"Bearer {SECRET}",
        "CLAUDECODE": "1",
        "RUNNER_SESSION_CACHE_FILE": str(tmp_path / "cache.json"),
        "CC_LOG_PATH": str(tmp_path / "live.log"),
    }


@pytest.fixture
def make_house(environ: dict[str, str], tmp_path: Path) -> Callable[..., object]:
    """Open houses; `policy` and sizes as keywords of HostSettings."""

    @asynccontextmanager
    async def opened(**settings) -> AsyncIterator[HostHouse]:
        async with open_house(
            HostSettings(**settings),
            data=tmp_path / "data" / "runner",
            mark=f"test-{os.getpid()}-{tmp_path.name}",
            environ=environ,
            clock=SystemClock(),
            secrets=[SECRET],
            protected=[tmp_path / "data"],
        ) as house:
            yield house

    return opened


@pytest.fixture
async def house(make_house) -> AsyncIterator[HostHouse]:
    async with make_house() as house:
        yield house


@pytest.fixture
def do(house: HostHouse) -> Callable[..., Awaitable[TaskReport]]:
    """Do one piece of work in the ordinary house."""
    return lambda work, **options: do_in(house, work, **options)


async def do_in(house: HostHouse, work, *, stop=None, tell=None, **spec) -> TaskReport:
    asked = HostSpec(task=TaskId("task-1"), type=TYPES[type(work)], work=work, created_at=0, **spec)
    return await execute(asked, house, tell or Heard(), stop=stop)


@pytest.fixture
def tools():
    """The functions of this file that tests use."""

    class Tools:
        do_in = staticmethod(do_in)
        is_gone = staticmethod(is_gone)
        Heard = Heard

    return Tools
