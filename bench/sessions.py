"""Measure code sessions over HTTP, beside a Jupyter kernel and bare CPython in the same run.

python -m bench.sessions [--rounds N] [--idle N]
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.end_to_end import Plane, bare, cpu_seconds, memory_mib
from bench.report import Figure, median, percentile, show
from bench.thin_http import ThinClient

JUPYTER = """
import sys, time
from jupyter_client.manager import start_new_kernel
begun = time.perf_counter()
manager, client = start_new_kernel(kernel_name="python3")
def run(code):
    client.execute_interactive(code, silent=False, output_hook=lambda message: None, timeout=60)
run("1+1")
cold = time.perf_counter() - begun
warm = []
for _ in range(30):
    begun = time.perf_counter(); run("1+1"); warm.append(time.perf_counter() - begun)
begun = time.perf_counter()
for _ in range(10): run("1+1")
ten = time.perf_counter() - begun
client.stop_channels(); manager.shutdown_kernel(now=True)
warm.sort()
print(cold * 1000, warm[len(warm) // 2] * 1000, ten * 1000)
"""


async def timed(work: Callable[[], Awaitable[object]], rounds: int, *, warmup: int = 3) -> list[float]:
    """Return the milliseconds of each round."""
    taken = []
    for number in range(rounds + warmup):
        begun = time.perf_counter()
        await work()
        if number >= warmup:
            taken.append((time.perf_counter() - begun) * 1000)
    return taken


def pair(measure: str, values: list[float], p50: float, p99: float | None, baseline: str, base: float) -> list[Figure]:
    """Return the figures of one row of the contract: the median, and the tail where it has a bar."""
    middle, tail = median(values), percentile(values, 0.99)
    figures = [Figure(f"{measure}, p50", middle, "ms", f"< {p50:g}", middle < p50, baseline, middle / base)]
    bar = "" if p99 is None else f"< {p99:g}"
    figures.append(Figure(f"{measure}, p99", tail, "ms", bar, None if p99 is None else tail < p99))
    return figures


class Sessions:
    """The native API as an agent's code would use it."""

    def __init__(self, http: ThinClient) -> None:
        self._http = http

    async def create(self, **options: Any) -> str:
        """Create a session and return its id."""
        return str((await self._ask("POST", "/v1/sessions", options))["id"])

    async def python(self, code: str, session: str | None = None) -> dict[str, Any]:
        """Execute Python, in a session of its own when none is named."""
        body = {"code": code} | ({"session_id": session} if session else {})
        result: dict[str, Any] = await self._ask("POST", "/v1/tools/execute_python", body)
        if result["error"] is not None:
            raise SystemExit(f"an exec failed: {result}")
        return result

    async def delete(self, session: str) -> None:
        """Delete a session."""
        await self._http.request("DELETE", f"/v1/sessions/{session}")

    async def sleep(self, session: str) -> None:
        """Freeze a session."""
        await self._ask("POST", f"/v1/sessions/{session}/sleep", {})

    async def _ask(self, method: str, path: str, body: object) -> Any:
        status, answer = await self._http.request(method, path, body)
        if status >= 400:
            raise SystemExit(f"{method} {path} answered {status}: {answer}")
        return answer


async def pooled(sessions: Sessions, rounds: int) -> list[float]:
    """Create from the ready pool and get the first result; the pool may refill between rounds."""
    taken = []
    for number in range(rounds + 3):
        begun = time.perf_counter()
        result = await sessions.python("1+1")
        if number >= 3:
            taken.append((time.perf_counter() - begun) * 1000)
        await sessions.delete(result["session_id"])
        await asyncio.sleep(0.15)
    return taken


async def cold(sessions: Sessions, rounds: int, **options: int) -> list[float]:
    """The same without the pool, because of a named workspace; with other limits nothing at all was made ahead."""
    taken = []
    for number in range(rounds + 2):
        begun = time.perf_counter()
        session = await sessions.create(workspace=f"cold{number}", **options)
        await sessions.python("1+1", session)
        if number >= 2:
            taken.append((time.perf_counter() - begun) * 1000)
        await sessions.delete(session)
        await asyncio.sleep(0.15)
    return taken


async def burst(sessions: Sessions, count: int) -> tuple[float, list[str]]:
    """Create `count` sessions at once and wait until each has answered."""
    begun = time.perf_counter()
    results = await asyncio.gather(*(sessions.python("1+1") for _ in range(count)))
    return (time.perf_counter() - begun) * 1000, [result["session_id"] for result in results]


async def thaws(sessions: Sessions, rounds: int) -> list[float]:
    """Wake a frozen session by an exec."""
    session = await sessions.create()
    await sessions.python("import numpy", session)
    taken = []
    for _ in range(rounds):
        await sessions.sleep(session)
        begun = time.perf_counter()
        await sessions.python("1+1", session)
        taken.append((time.perf_counter() - begun) * 1000)
    await sessions.delete(session)
    return taken


async def flood(sessions: Sessions, plane: Plane) -> list[Figure]:
    """Print 100 MB in one exec and watch the daemons' memory."""
    daemons = {name: plane.pids(name)[:1] for name in ("serve", "runner")}
    before = {name: memory_mib(pids) for name, pids in daemons.items()}
    session = await sessions.create()
    task = asyncio.create_task(
        sessions.python(
            "print('x' * 99 + '\\n', end='') if 0 else None\nfor _ in range(1000): print('y' * 100_000)", session
        )
    )
    peak = dict(before)
    while not task.done():
        await asyncio.wait([task], timeout=0.1)
        for name, pids in daemons.items():
            peak[name] = max(peak[name], memory_mib(pids))
    await task
    await sessions.delete(session)
    return [
        Figure(f"exec that prints 100 MB: {name} grows by", peak[name] - before[name], "MiB", "< 20",
               peak[name] - before[name] < 20)
        for name in daemons
    ]  # fmt: skip


async def measure(plane: Plane, arguments: argparse.Namespace, kernel: tuple[float, float, float]) -> list[Figure]:
    """Measure every row of the contract."""
    http = ThinClient(plane.port, {"Authorization": f"Bearer {plane.key}"})
    try:
        sessions = Sessions(http)
        await sessions.python("1+1")  # waits for the profile's environment
        await settled(plane)
        rounds = arguments.rounds
        jupyter = "a Jupyter kernel without HTTP"
        figures = pair("create and 1+1, ready pool", await pooled(sessions, rounds), 5, 15, jupyter, kernel[0])
        figures += pair("create and 1+1, pool empty", await cold(sessions, rounds // 2), 12, 30, jupyter, kernel[0])
        nothing = await cold(sessions, rounds // 2, memory=1000)
        figures += pair("create and 1+1, nothing made ahead", nothing, 12, 30, jupyter, kernel[0])
        live = await sessions.create()
        figures += pair("1+1 in a live session", await timed(lambda: sessions.python("1+1", live), rounds), 2, None,
                        jupyter, kernel[1])  # fmt: skip

        async def ten() -> None:
            for _ in range(10):
                await sessions.python("1+1", live)

        figures += pair("ten execs one after another", await timed(ten, 20), 15, None, jupyter, kernel[2])
        await sessions.delete(live)
        figures += pair("thaw of a sleeping session and 1+1", await thaws(sessions, 20), 10, None, jupyter, kernel[1])
        figures += await flood(sessions, plane)
        await settled(plane)
        took, made = await burst(sessions, 100)
        figures.append(Figure("100 sessions at once, all answered", took, "ms", "< 500", took < 500))
        figures.append(Figure("... sessions a second", 100 / took * 1000, "1/s", ">= 200", took <= 500))
        figures += await idle(sessions, plane, made, arguments.idle)
        return figures
    finally:
        http.close()


async def idle(sessions: Sessions, plane: Plane, made: list[str], count: int) -> list[Figure]:
    """Hold `count` idle sessions and watch what they cost, from the `made` ones on.

    Memory is told twice: what the processes hold, each page once, and what the host has less, with all that the kernel
    keeps for them.
    """
    begun_with = len(made)
    await settled(plane)
    proportional, available = memory_mib(plane.pids("runner")), available_mib()
    while len(made) < count:
        _, more = await burst(sessions, min(50, count - len(made)))
        made += more
    await settled(plane)
    pids = plane.pids("runner")
    more_sessions = max(1, count - begun_with)
    held = (memory_mib(pids) - proportional) / more_sessions
    missing = (available - available_mib()) / more_sessions
    begun, since = cpu_seconds(plane.pids("serve") + pids), time.perf_counter()
    await asyncio.sleep(20)
    share = (cpu_seconds(plane.pids("serve") + pids) - begun) / (time.perf_counter() - since) * 100
    return [
        Figure(f"{count} idle sessions: CPU", share, "%", "< 1", share < 1),
        Figure("memory of one more idle session, of the processes", held, "MiB", "< 4", held < 4),
        Figure("... that the host has less", missing, "MiB", "< 4", missing < 4),
    ]


async def settled(plane: Plane) -> None:
    """Wait until the runner has made ahead what it keeps ready: it starts and ends no more processes."""
    before, since = plane.pids("runner"), time.perf_counter()
    while time.perf_counter() - since < 3:
        await asyncio.sleep(0.5)
        now = plane.pids("runner")
        if set(now) != set(before):
            before, since = now, time.perf_counter()


def available_mib() -> float:
    """Return the memory that the host could give to programs, in MiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:"))


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--idle", type=int, default=1000)
    arguments = parser.parse_args()
    out = subprocess.run([sys.executable, "-c", JUPYTER], capture_output=True, text=True, check=True).stdout
    cold_, warm, ten = (float(word) for word in out.split()[-3:])
    python = median([bare("/usr/bin/python3", "-c", "1+1") for _ in range(10)])
    with tempfile.TemporaryDirectory(prefix="clawplane-bench-") as directory:
        plane = Plane(Path(directory))
        plane.start(CLAWPLANE_SESSION_SLOTS=str(arguments.idle + 200))
        try:
            figures = [
                Figure("a Jupyter kernel: start and 1+1", cold_, "ms"),
                Figure("a Jupyter kernel: 1+1", warm, "ms"),
                Figure("bare python3 -c 1+1", python, "ms"),
            ]
            figures += asyncio.run(measure(plane, arguments, (cold_, warm, ten)))
        finally:
            plane.stop()
    show("Code sessions over HTTP", figures)


if __name__ == "__main__":
    main()
