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
from clawplane.builder.environments import Environment, EnvironmentCache
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
    """Seconds of one round."""

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


async def forget(cache: EnvironmentCache, root: Path, *, everything: bool) -> None:
    """Collect all environments; with `everything` also what the installers cached and the locks."""
    for environment in (root / "environments").iterdir():
        os.utime(environment / "used", (0, 0))
    await cache.collect(max_age=0, max_bytes=0 if everything else 1 << 40, in_use=set())
    if everything:
        for lock in (root / "locks").iterdir():
            lock.unlink()


async def one_round(tools: Tools, cache: EnvironmentCache, root: Path, launcher: BuildLauncher) -> Timings:
    """Measure everything once."""
    plan = plan_python("\n".join(WANTED).encode())
    timings = Timings()

    async def ready(seconds: list[float]) -> Environment:
        began = time.perf_counter()
        environment = await cache.ensure(plan, launcher=launcher, on_log=lambda line: None)
        seconds.append(time.perf_counter() - began)
        return environment

    # the plan also wants protobuf, for the SDK: the baseline installs the same set
    with tempfile.TemporaryDirectory(dir=root.parent) as directory:
        timings.alone.append(await uv_alone(tools, Path(directory), (*WANTED, "protobuf")))
    await forget(cache, root, everything=True)
    built = await ready(timings.built)
    began = time.perf_counter()
    await cache.compile(built, launcher=launcher)
    timings.compiled.append(time.perf_counter() - began)
    await ready(timings.repeated)
    await forget(cache, root, everything=False)
    await ready(timings.offline)
    return timings


async def measure(rounds: int) -> list[Timings]:
    """Alternate the baseline and ours, after one build that is not counted, for a runner starts once."""
    tools = find_tools()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        parent = Path(directory)
        parent.chmod(0o755)
        sandbox = await Sandbox.open(state_directory=parent / "state")
        try:
            launcher = BuildLauncher(sandbox, seconds=300)
            cache = EnvironmentCache(parent / "cache", tools)
            await cache.ensure(plan_python(None), launcher=launcher, on_log=lambda line: None)
            return [await one_round(tools, cache, parent / "cache", launcher) for _ in range(rounds)]
        finally:
            await sandbox.close()


def figures(rounds: list[Timings]) -> list[Figure]:
    """Summarise; ratios are taken round by round, so that a busy moment weighs on both sides."""
    milliseconds = {
        name: 1000 * median([seconds for timings in rounds for seconds in getattr(timings, name)])
        for name in ("alone", "built", "compiled", "repeated", "offline")
    }
    ratio = median([timings.built[0] / timings.alone[0] for timings in rounds])
    return [
        Figure(
            f"cold install of {', '.join(WANTED)}: ready",
            milliseconds["built"],
            "ms",
            f"<= x{COLD_BAR}",
            ratio <= COLD_BAR,
            f"uv pip install alone ({milliseconds['alone']:.0f} ms)",
            ratio,
        ),
        Figure("byte-code, added after an environment is ready", milliseconds["compiled"], "ms"),
        Figure(
            "known dependencies: ready",
            milliseconds["repeated"],
            "ms",
            f"< {REPEAT_BAR_MS:.0f} ms",
            milliseconds["repeated"] < REPEAT_BAR_MS,
        ),
        Figure("collected environment built again from its lock, offline", milliseconds["offline"], "ms"),
    ]


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    show("environments", figures(asyncio.run(measure(parser.parse_args().rounds))))


if __name__ == "__main__":
    main()
