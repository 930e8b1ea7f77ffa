"""Measure a sandboxed start: from the call until the first line of user code has arrived, next to a bare interpreter.

The baseline (`python3 -c "print(1)"`, no isolation at all) alternates with the sandboxed starts, so that both see the
same machine. Run it with `python bench/spawn.py [rounds]`.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from clawplane.sandbox.launch import Process, Sandbox
from clawplane.sandbox.policy import Limits, Listener, Overlay, Policy

PYTHON = os.path.realpath(sys.executable)
SDK = Listener("127.0.0.1", 20086)


async def _first_line(process: Process) -> float:
    """Return the time at which the first output arrived."""
    arrived = 0.0
    async for _stream, _block in process.output():
        arrived = arrived or time.perf_counter()
    verdict = await process.wait()
    for listening in process.listeners.values():
        listening.close()
    if not verdict.succeeded:
        raise SystemExit(f"a run failed: {verdict}")
    return arrived


def _bare() -> float:
    began = time.perf_counter()
    with subprocess.Popen([PYTHON, "-c", "print(1)"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        arrived = time.perf_counter()
    return arrived - began


def _row(name: str, seconds: list[float], baseline: float) -> None:
    ordered = sorted(seconds)
    p50, p99 = statistics.median(ordered) * 1000, ordered[int(len(ordered) * 0.99)] * 1000
    print(f"{name:<52} {p50:8.2f} {p99:8.2f} {p50 / (baseline * 1000):7.2f} x")


async def main(rounds: int) -> None:
    """Print one row per way to start, and the rate of a burst."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        package = Path(directory, "package")
        package.mkdir()
        Path(directory).chmod(0o755)
        (package / "main.py").write_text("print(1)\n")
        sandbox = await Sandbox.open(state_directory=Path(directory, "state"))
        try:
            await _measure(sandbox, package, rounds)
        finally:
            await sandbox.close()


async def _measure(sandbox: Sandbox, package: Path, rounds: int) -> None:
    policy = Policy(
        mounts=(Overlay(str(package), "/app"),), working_directory="/app", limits=Limits(cpus=1.0), listeners=(SDK,)
    )
    zygote = await sandbox.zygote(key="bench", python=PYTHON)

    async def python() -> Process:
        return await sandbox.run_python(zygote, policy, "/app/main.py", interpreter=PYTHON, site_directories=())

    async def program() -> Process:
        return await sandbox.run(policy, ["echo", "1"])

    bare: list[float] = []
    ways: dict[str, tuple[Callable[[], Awaitable[Process]], list[float]]] = {
        "zygote fork, first line of a Python file": (python, []),
        "exec of echo": (program, []),
    }
    for _ in range(rounds):
        bare.append(_bare())
        for start, seconds in ways.values():
            began = time.perf_counter()
            seconds.append(await _first_line(await start()) - began)
    kind = "root" if os.geteuid() == 0 else "ordinary user"
    print(f"{platform.release()}, {os.cpu_count()} CPUs, {kind}, cgroups {sandbox.cgroup_mode}, {rounds} rounds")
    print(f"{'':<52} {'p50 ms':>8} {'p99 ms':>8} {'ratio':>9}")
    baseline = statistics.median(bare)
    _row("bare python3, no isolation", bare, baseline)
    for name, (_start, seconds) in ways.items():
        _row(name, seconds, baseline)
    began = time.perf_counter()
    await asyncio.gather(*[_first_line(each) for each in await asyncio.gather(*[python() for _ in range(rounds)])])
    print(f"{rounds} at once: {rounds / (time.perf_counter() - began):.0f} per second, started, run and gone")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
