"""Measure dependency builds in the real sandbox, next to `uv pip install` alone with the same indexes.

python -m bench.environments [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import Figure, median, show
from clawplane.builder.access import IndexAccess
from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.plan import plan_python
from clawplane.builder.python_steps import PythonInstaller
from clawplane.builder.tools import Tools, find_tools
from clawplane.runner.build_launcher import BuildLauncher
from clawplane.sandbox.launch import Sandbox

WANTED = ("requests", "lxml", "grpcio")
COLD_BAR = 1.3
REPEAT_BAR_MS = 500.0


@dataclass
class Timings:
    """Seconds, one per round."""

    alone: list[float] = field(default_factory=list)
    built: list[float] = field(default_factory=list)
    compiled: list[float] = field(default_factory=list)
    repeated: list[float] = field(default_factory=list)
    offline: list[float] = field(default_factory=list)


async def uv_alone(tools: Tools, directory: Path, wanted: tuple[str, ...]) -> float:
    """Install with an empty cache into a new virtual environment; making that is not counted."""
    installer = PythonInstaller(tools, IndexAccess(tools.indexes, {}), directory, "/env")
    variables = {**installer.variables(directory / "uv"), "PATH": os.defpath, "HOME": str(directory)}
    target = directory / "alone"

    async def uv(*arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(tools.uv, *arguments, env=variables)
        if await process.wait():
            raise SystemExit("uv alone failed: is the package index reachable?")

    await uv("venv", "--quiet", "--python", str(tools.python.executable), str(target))
    began = time.perf_counter()
    await uv("pip", "install", "--quiet", "--python", str(target / "bin" / "python"), *wanted)
    return time.perf_counter() - began


async def one_round(tools: Tools, launcher: BuildLauncher, timings: Timings, parent: Path) -> None:
    """Measure everything once, each with an empty cache of its own."""
    plan = plan_python("\n".join(WANTED).encode())
    # the plan also wants protobuf, for the SDK: the baseline installs the same set
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        timings.alone.append(await uv_alone(tools, Path(directory), (*WANTED, "protobuf")))
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        root = Path(directory, "cache")
        cache = EnvironmentCache(root, tools)
        began = time.perf_counter()
        built = await cache.ensure(plan, launcher=launcher, on_log=lambda line: None)
        timings.built.append(time.perf_counter() - began)
        began = time.perf_counter()
        await cache.compile(built, launcher=launcher)
        timings.compiled.append(time.perf_counter() - began)
        began = time.perf_counter()
        await EnvironmentCache(root, tools).ensure(plan, launcher=launcher, on_log=lambda line: None)
        timings.repeated.append(time.perf_counter() - began)
        used = built.path.parent / "used"
        os.utime(used, (0, 0))
        await cache.collect(max_age=1e8, max_bytes=1 << 40, in_use=set())
        began = time.perf_counter()
        await cache.ensure(plan, launcher=launcher, on_log=lambda line: None)
        timings.offline.append(time.perf_counter() - began)


async def measure(rounds: int) -> Timings:
    """Alternate the baseline and ours."""
    tools = find_tools()
    timings = Timings()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        parent = Path(directory)
        parent.chmod(0o755)
        sandbox = await Sandbox.open(state_directory=parent / "state")
        try:
            launcher = BuildLauncher(sandbox, seconds=300)
            for _ in range(rounds):
                await one_round(tools, launcher, timings, parent)
        finally:
            await sandbox.close()
    return timings


def figures(timings: Timings) -> list[Figure]:
    """Summarise."""
    alone, built = median(timings.alone), median(timings.built)
    repeated = median(timings.repeated) * 1000
    return [
        Figure(
            f"cold install of {', '.join(WANTED)}: ready",
            built * 1000,
            "ms",
            f"<= x{COLD_BAR}",
            built <= COLD_BAR * alone,
            f"uv pip install alone ({alone * 1000:.0f} ms)",
            built / alone,
        ),
        Figure("byte-code, added after an environment is ready", median(timings.compiled) * 1000, "ms"),
        Figure("known dependencies: ready", repeated, "ms", f"< {REPEAT_BAR_MS:.0f} ms", repeated < REPEAT_BAR_MS),
        Figure("collected environment built again from its lock, offline", median(timings.offline) * 1000, "ms"),
    ]


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    show("environments", figures(asyncio.run(measure(parser.parse_args().rounds))))


if __name__ == "__main__":
    main()
