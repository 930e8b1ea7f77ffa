"""Open real residents and talk to interpreters in them that run what they are sent."""

from __future__ import annotations

import ast
import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.launch import Resident, Sandbox, Zygote
from clawplane.sandbox.policy import MIB, Limits, Policy
from clawplane.sandbox.readiness import readable
from clawplane.sandbox.resident import Member, MemberEnd

PATIENCE = 40.0
PYTHON = os.path.realpath(sys.executable)
OBEY = '''
import os, socket

def main(control):
    """Run every message and answer with what it left in `answer`."""
    scope = {"connection": socket.socket(fileno=control)}
    while True:
        try:
            code = scope["connection"].recv(65536)
            if not code:
                os._exit(0)
            scope["answer"] = None
            exec(code, scope)
            said = repr(scope["answer"])
        except BaseException as problem:
            said = repr(f"{type(problem).__name__}: {problem}")
        scope["connection"].send(said.encode())
'''
MODULE = "obey"


class Talking:
    """An interpreter in a resident."""

    def __init__(self, member: Member, control: socket.socket) -> None:
        self.member = member
        self.control = control

    def tell(self, code: str) -> None:
        """Send code without waiting for its answer."""
        self.control.send(code.encode())

    async def hear(self) -> Any:
        """Return the next answer."""
        async with asyncio.timeout(PATIENCE):
            await readable(self.control.fileno())
        said = self.control.recv(1 << 20)
        if not said:
            raise EOFError(f"the interpreter is gone: {self.member.end}")
        return ast.literal_eval(said.decode())

    async def ask(self, code: str) -> Any:
        """Run code; returns what it leaves in `answer`, or the exception in words."""
        self.tell(code)
        return await self.hear()


class Residents:
    """Start things with few words."""

    python = PYTHON

    def __init__(self, sandbox: Sandbox, zygote: Zygote) -> None:
        self.sandbox = sandbox
        self.zygote = zygote
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._open: list[socket.socket] = []

    @property
    def bounded(self) -> bool:
        """Tell whether the kernel bounds memory for us."""
        return self.sandbox.cgroup_mode != "none"

    async def open(self, **changes: Any) -> Resident:
        limits = Limits(**{"wall": None, "memory": 256 * MIB, **changes.pop("limits", {})})
        return await self.sandbox.open_resident(self.zygote, Policy(limits=limits, **changes))

    def policy(self, **changes: Any) -> Policy:
        """What `begin` begins with, but for `changes`."""
        return Policy(**{"limits": Limits(wall=None, memory=256 * MIB), **changes})

    async def begin(self, **changes: Any) -> Resident:
        """Return one that waits for somebody to move in."""
        return await self.sandbox.begin_resident(self.zygote, self.policy(**changes))

    async def fork(self, resident: Resident, **environment: str) -> Talking:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._open.append(ours)
        with theirs:
            member = await resident.fork_python(
                stdin=self.null,
                stdout=self.null,
                stderr=self.null,
                control=theirs.fileno(),
                environment=environment,
                working_directory="/tmp",
                entry_point=f"{MODULE}:main",
            )
        return Talking(member, ours)

    async def execute(self, resident: Resident, *argv: str, stdout: int | None = None, **environment: str) -> Member:
        return await resident.execute(
            argv,
            stdin=self.null,
            stdout=self.null if stdout is None else stdout,
            stderr=self.null if stdout is None else stdout,
            environment=environment,
            working_directory="/tmp",
        )

    async def run(self, resident: Resident, *argv: str, **environment: str) -> tuple[str, MemberEnd]:
        """Execute a program; returns what it printed and how it ended."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                member = await self.execute(resident, *argv, stdout=writing, **environment)
            finally:
                os.close(writing)
            said = await read_all(reading)
            async with asyncio.timeout(PATIENCE):
                return said, await member.wait()
        finally:
            os.close(reading)

    async def processes(self, resident: Resident) -> list[int]:
        """Return the inner pids that a fresh program sees beside its own."""
        said, _end = await self.run(resident, "sh", "-c", "echo $$ $(cd /proc; echo [0-9]*)")
        own, *seen = (int(word) for word in said.split())
        return [pid for pid in seen if pid < own]

    def close(self) -> None:
        for each in self._open:
            each.close()
        os.close(self.null)


async def read_all(reading: int) -> str:
    """Read a pipe to its end."""
    os.set_blocking(reading, False)
    said = b""
    async with asyncio.timeout(PATIENCE):
        while True:
            await readable(reading)
            block = os.read(reading, 65536)
            if not block:
                return said.decode()
            said += block


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of its own, closed afterwards."""
    opened = await Sandbox.open(state_directory=tmp_path / "state")
    yield opened
    await opened.close()


@pytest.fixture
async def residents(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Residents]:
    """Open residents in `sandbox`."""
    site = tmp_path / "site"
    site.mkdir()
    (site / f"{MODULE}.py").write_text(OBEY)
    zygote = await sandbox.zygote(
        key="tests", python=PYTHON, preload=[MODULE, "random", "uuid"], site_directories=[str(site)]
    )
    opened = Residents(sandbox, zygote)
    yield opened
    opened.close()
