"""Measure what code sessions stand on: opening a resident, forking its interpreter, starting a program, staying idle.

The baseline, a bare interpreter that imports the same packages, alternates with the residents. The resident's
interpreter counts as started when its first word has arrived over its control socket. Run it with
`python -m bench.residents [rounds]`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Final

from bench.report import Figure, median, percentile, show
from clawplane.sandbox.launch import Resident, Sandbox, Zygote
from clawplane.sandbox.policy import MIB, Limits, Listener, Policy, ReadOnly, Writable
from clawplane.sandbox.readiness import readable
from clawplane.sandbox.resident import Member

PYTHON: Final = os.path.realpath(sys.executable)
PACKAGES: Final = ("numpy", "pandas")
WORD: Final = """
import os, socket
def main(control):
    connection = socket.socket(fileno=control)
    connection.send(b"up")
    connection.recv(1)
    os._exit(0)
"""
PACKAGE_DIRECTORY: Final = sysconfig.get_path("purelib")
IDLE: Final = 100
BURST: Final = 100
IN_FLIGHT: Final = 8


class Live:
    """One resident with its interpreter."""

    def __init__(self, resident: Resident, member: Member, control: socket.socket) -> None:
        self.resident = resident
        self.member = member
        self._control = control

    async def close(self) -> None:
        self._control.close()
        for listening in self.resident.listeners.values():
            listening.close()
        await self.resident.close()


class Bench:
    """What all measurements share."""

    def __init__(self, sandbox: Sandbox, zygote: Zygote, directory: Path) -> None:
        self.sandbox = sandbox
        self.zygote = zygote
        self.directory = directory
        self.null = os.open("/dev/null", os.O_RDWR)
        self._made = 0

    async def open(self) -> Resident:
        self._made += 1
        workspace = self.directory / f"workspace-{self._made}"
        workspace.mkdir()
        policy = Policy(
            mounts=(Writable(str(workspace), "/workspace"), ReadOnly(PACKAGE_DIRECTORY, PACKAGE_DIRECTORY)),
            limits=Limits(wall=None, memory=1024 * MIB, cpus=2.0),
            listeners=(Listener("127.0.0.1", 1080), Listener("127.0.0.1", 3128)),
        )
        return await self.sandbox.open_resident(self.zygote, policy)

    async def fork(self, resident: Resident) -> tuple[Member, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            member = await resident.fork_python(
                stdin=self.null,
                stdout=self.null,
                stderr=self.null,
                control=theirs.fileno(),
                environment={},
                working_directory="/workspace",
                entry_point="first_word:main",
            )
        await readable(ours.fileno())
        assert ours.recv(16) == b"up"
        return member, ours

    async def execute(self, resident: Resident) -> None:
        member = await resident.execute(
            ["true"],
            stdin=self.null,
            stdout=self.null,
            stderr=self.null,
            environment={},
            working_directory="/workspace",
        )
        await member.wait()

    async def live(self) -> Live:
        resident = await self.open()
        return Live(resident, *await self.fork(resident))


def bare() -> None:
    """Start an interpreter without any isolation and import the packages."""
    subprocess.run([sys.executable, "-c", f"import {', '.join(PACKAGES)}"], check=True)


def private_memory(pids: list[int]) -> int:
    """Return the bytes that no other process shares."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                total += int(line.split()[1]) * 1024
    return total


async def timed(work: Awaitable[object]) -> float:
    """Return how many milliseconds `work` took."""
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000


async def one_by_one(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Take every step alone, `rounds` times."""
    names = ("bare", "open", "fork", "execute", "freeze", "thaw", "close")
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        if turn < 10:
            began = time.perf_counter()
            await asyncio.to_thread(bare)
            taken["bare"].append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        resident = await bench.open()
        taken["open"].append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        live = Live(resident, *await bench.fork(resident))
        taken["fork"].append((time.perf_counter() - began) * 1000)
        taken["execute"].append(await timed(bench.execute(resident)))
        taken["freeze"].append(await timed(resident.freeze()))
        taken["thaw"].append(await timed(resident.thaw()))
        taken["close"].append(await timed(live.close()))
    return taken


async def burst(bench: Bench) -> float:
    """Return how many residents with an interpreter come into being per second, a few at a time."""
    turns = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> Live:
        async with turns:
            return await bench.live()

    began = time.perf_counter()
    alive = await asyncio.gather(*(one() for _ in range(BURST)))
    taken = time.perf_counter() - began
    await asyncio.gather(*(each.close() for each in alive))
    return BURST / taken


async def idle(bench: Bench) -> list[Figure]:
    """Keep many idle for a while, and look at what they hold and use."""
    alive = [await bench.live() for _ in range(IDLE)]
    private = [private_memory([each.resident.pid, each.member.host_pid]) / MIB for each in alive]
    charged = [each.resident.usage().current_memory / MIB for each in alive]
    inside = sum(each.resident.usage().cpu_ms for each in alive)
    own, began = time.process_time(), time.perf_counter()
    await asyncio.sleep(5)
    own, taken = time.process_time() - own, time.perf_counter() - began  # before looking, which costs more than they do
    inside = sum(each.resident.usage().cpu_ms for each in alive) - inside
    share = (own + inside / 1000) / taken * 100 * 1000 / IDLE
    await asyncio.gather(*(each.close() for each in alive))
    return [
        Figure(
            f"private memory of an idle resident, p50 of {IDLE}", median(private), "MiB", "< 4", median(private) < 4
        ),
        Figure(f"charged to its cgroup, p50 of {IDLE}", median(charged), "MiB"),
        Figure("CPU of 1,000 idle residents, from 100", share, "% of one", "< 1", share < 1),
    ]


def furnish(site: Path) -> Path:
    """Make a directory of packages like those the builder makes: without the .pth files of editable installs."""
    site.mkdir()
    (site / "first_word.py").write_text(WORD)
    for each in Path(PACKAGE_DIRECTORY).iterdir():
        if each.suffix != ".pth":
            (site / each.name).symlink_to(each)
    return site


async def measure(directory: Path, rounds: int) -> list[Figure]:
    """Run everything."""
    site = furnish(directory / "site")
    sandbox = await Sandbox.open(state_directory=directory / "state")
    try:
        zygote = await sandbox.zygote(
            key="bench",
            python=PYTHON,
            preload=("first_word", *PACKAGES),
            site_directories=(str(site),),
        )
        bench = Bench(sandbox, zygote, directory)
        taken = await one_by_one(bench, rounds)
        rate = await burst(bench)
        figures = [
            Figure(f"bare python importing {', '.join(PACKAGES)}, p50", median(taken["bare"]), "ms"),
            *_row("open a resident", taken["open"], taken["bare"]),
            *_row("fork its interpreter, until its first word", taken["fork"], taken["bare"]),
            *_row("execute `true` in it, until its end is known", taken["execute"], taken["bare"]),
            *_row("freeze", taken["freeze"], taken["bare"]),
            *_row("thaw", taken["thaw"], taken["bare"]),
            *_row("close", taken["close"], taken["bare"]),
            Figure(f"residents with interpreter per second, {IN_FLIGHT} at a time", rate, "/s", ">= 200", rate >= 200),
        ]
        return [*figures, *await idle(bench)]
    finally:
        await sandbox.close()


def _row(name: str, values: list[float], bare_values: list[float]) -> list[Figure]:
    middle = median(values)
    return [
        Figure(f"{name}, p50", middle, "ms", baseline="bare", ratio=middle / median(bare_values)),
        Figure(f"{name}, p99", percentile(values, 0.99), "ms"),
    ]


def main() -> None:
    """Print the figures."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        show("Residents: the sandboxes of code sessions", asyncio.run(measure(Path(name), rounds)))


if __name__ == "__main__":
    main()
