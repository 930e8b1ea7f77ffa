"""Measure the product as its users meet it: a real `clawplane up`, real HTTP, real sandboxes.

python -m bench.end_to_end [--runs N] [--rows N]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx

from bench.report import Figure, median, percentile, show
from clawplane.domain.batches import Batch, ShippedRow
from clawplane.domain.ids import JobIds, RunnerId, RunSlug, WorkerSlug, new_ulid
from clawplane.domain.leases import Claim, Finish, JobKind, NewJob, Outcome, Want
from clawplane.domain.lifecycle import RunStatus
from clawplane.domain.runs import NewRun, Run, RunSystem
from clawplane.store.store import open_store

PROJECT = Path(__file__).resolve().parents[1]
TEMPLATES = PROJECT / "src" / "clawplane" / "sdk" / "templates"
CLAWPLANE = Path(sys.executable).with_name("clawplane")

PYTHON_MAIN = """import time
first = time.time_ns()
from sdk import CoreSDK
CoreSDK.Result.push_data({"first": first})
"""
ROWS_MAIN = """from sdk import CoreSDK
given = CoreSDK.Parameter.get_input_json_dict()
for number in range(given["n"]):
    CoreSDK.Result.push_data({"id": number, "name": "row %d" % number, "text": "x" * 120, "price": 1.5, "ok": True})
"""
NODE_MAIN = """const first = BigInt(Date.now()) * 1000000n;
const coresdk = require('./sdk');
(async () => { await coresdk.result.pushData({first: Number(first)}); process.exit(0); })();
"""
SCHEMA = json.dumps({"properties": [{"name": "n", "type": "integer", "default": 1}]})


def package(main: str, language: str) -> bytes:
    """Return the ZIP of a Worker in Python or Node with the SDK's files."""
    entry = {"python": "main.py", "node": "main.js"}[language]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry, main)
        archive.writestr("input_schema.json", SCHEMA)
        archive.writestr("output_schema.json", "[]")
        for path in (TEMPLATES / language).iterdir():
            if path.name.startswith("sdk") or path.name in {"requirements.txt", "package.json"}:
                archive.writestr(path.name, path.read_bytes())
    return buffer.getvalue()


class Plane:
    """A `clawplane up` of its own, with the processes it consists of."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.directory = directory
        self.key = f"scraper_api_{secrets.token_hex(24)}"
        self._up: subprocess.Popen[str] | None = None

    def start(self, **settings: str) -> float:
        """Start it, with further variables, and return the seconds until it was ready."""
        begun = time.perf_counter()
        own = {"CLAWPLANE_API_KEY": self.key, "XDG_STATE_HOME": str(self.directory / "state")}
        environment = os.environ | own | settings
        self._up = subprocess.Popen(
            [CLAWPLANE, "up", "--port", str(self.port), "--data", str(self.directory), "--log", "warning"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._up.stderr is not None
        for line in self._up.stderr:
            if line.startswith("Ready"):
                return time.perf_counter() - begun
        raise SystemExit("clawplane did not start")

    def stop(self) -> None:
        """End it."""
        if self._up is not None:
            self._up.send_signal(signal.SIGINT)
            self._up.wait(20)

    def pids(self, name: str) -> list[int]:
        """Return the process ids of one daemon and its descendants."""
        parents: dict[int, list[int]] = {}
        roots = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
            if name.encode() in command and str(self.directory).encode() in b" ".join(command):
                roots.append(int(entry.name))
        found, queue = [], [pid for pid in roots if name != "up"]
        while queue:
            pid = queue.pop()
            if pid not in found:
                found.append(pid)
                queue += parents.get(pid, [])
        return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU seconds that these processes have used so far."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory_mib(pids: list[int]) -> float:
    """Return the proportional memory of these processes in MiB."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total / 1024


def bare(*command: str) -> float:
    """Return the milliseconds of a bare command."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


async def push(http: httpx.AsyncClient, name: str, content: bytes) -> tuple[str, float]:
    """Push a Worker and return its path and the milliseconds until its version was ready."""
    begun = time.perf_counter()
    answer = await http.post(
        "/v1/workers",
        data={"name": name, "title": name},
        files={"scraper_file": ("worker.zip", content, "application/zip")},
    )
    version = answer.json()["data"]
    async with http.stream(
        "GET", f"/v1/workers/{version['worker']}/versions/{version['version']}/log", params={"follow": "true"}
    ) as log:
        async for _ in log.aiter_lines():
            pass
    seconds = time.perf_counter() - begun
    built = (await http.get(f"/v1/workers/{version['worker']}/versions/{version['version']}")).json()["data"]
    if built["status"] != "ready":
        raise SystemExit(f"{name} was not built: {built}")
    return str(version["worker"]), seconds * 1000


async def run(http: httpx.AsyncClient, worker: str, **custom: Any) -> dict[str, Any]:
    """Run a Worker to its end and return the synchronous answer."""
    body = {"input": {"parameters": {"system": {"cpus": 1}, "custom": custom}}, "is_async": False, "limit": 1}
    answer: dict[str, Any] = (await http.post(f"/api/v2/workers/{worker}/runs", json=body)).json()["data"]
    if answer["run_status"] != "succeeded":
        raise SystemExit(f"a run ended as {answer}")
    return answer


async def first_line(
    http: httpx.AsyncClient, worker: str, runs: int, command: list[str]
) -> tuple[list[float], list[float]]:
    """Return the milliseconds from a submit to the first line of code, and those of a bare command in turn with it."""
    ours, bares = [], []
    for number in range(runs + 5):
        submitted = time.time_ns()
        answer = await run(http, worker)
        first = answer["results"]["list"][0]["first"]
        took = bare(*command)
        if number >= 5:
            ours.append((first - submitted) / 1e6)
            bares.append(took)
    return ours, bares


async def start_figures(http: httpx.AsyncClient, runs: int) -> list[Figure]:
    """Measure submit to first line, for Python and Node, and the push of a version with known dependencies."""
    figures = []
    worker, _ = await push(http, "first-line", package(PYTHON_MAIN, "python"))
    ours, bares = await first_line(http, worker, runs, ["/usr/bin/python3", "-c", "pass"])
    base = median(bares)
    name = f"python3 -c pass ({base:.1f} ms)"
    for label, value, bar in (("p50", median(ours), 30.0), ("p99", percentile(ours, 0.99), 100.0)):
        figures.append(
            Figure(
                f"submit -> first line, Python, {label}", value, "ms", f"< {bar:.0f}", value < bar, name, value / base
            )
        )
    again = []
    for number in range(8):
        _, milliseconds = await push(http, "known", package(f"{PYTHON_MAIN}# {number}\n", "python"))
        again.append(milliseconds)
    figures.append(
        Figure("upload with known dependencies -> ready, p50", median(again), "ms", "< 500", median(again) < 500)
    )
    worker, _ = await push(http, "first-line-node", package(NODE_MAIN, "node"))
    ours, bares = await first_line(http, worker, max(10, runs // 3), ["node", "-e", "0"])
    base = median(bares)
    value = median(ours)
    figures.append(
        Figure(
            "submit -> first line, Node, p50",
            value,
            "ms",
            "< 150",
            value < 150,
            f"node -e 0 ({base:.1f} ms)",
            value / base,
        )
    )
    return figures


async def burst_figures(http: httpx.AsyncClient, worker: str) -> list[Figure]:
    """Submit 200 runs at once and wait for all."""
    body = {"input": {"parameters": {"system": {"cpus": 1}, "custom": {"n": 2}}}, "is_async": True}
    begun = time.perf_counter()
    answers = await asyncio.gather(*(http.post(f"/api/v2/workers/{worker}/runs", json=body) for _ in range(200)))
    submitted = time.perf_counter() - begun
    slugs = [answer.json()["data"]["run_slug"] for answer in answers]
    runs: list[dict[str, Any]] = []
    for slug in slugs:
        async with http.stream("GET", f"/v1/runs/{slug}/log", params={"follow": "true"}) as log:
            async for _ in log.aiter_lines():
                pass
        runs.append((await http.get(f"/api/v2/worker-runs/{slug}")).json()["data"])
    took = time.perf_counter() - begun
    good = sum(item["status"] == "succeeded" and item["results"] == 2 for item in runs)
    return [
        Figure("200 runs at once: accepted after", submitted * 1000, "ms"),
        Figure("200 runs at once: all ended after", took, "s"),
        Figure("200 runs at once: succeeded with every row", good, "runs", "200", good == 200),
    ]


async def fill(directory: Path, count: int) -> str:
    """Store a run with `count` rows before anything is started, and return its slug."""
    store = await open_store(directory)
    now = time.time_ns() // 1_000_000
    slug, job, runner = RunSlug(new_ulid(now)), JobIds().next(now), RunnerId("filler")
    run_ = Run(
        slug=slug,
        worker=WorkerSlug("filled"),
        worker_title="filled",
        version="v1.0.0",
        owner="local",
        status=RunStatus.READY,
        input=b"{}",
        system=RunSystem(),
        subtask_count=1,
        created_at=now,
    )
    new = NewJob(
        id=job, kind=JobKind.SUBTASK, subject=slug, caps="filling", ready_at=now, spec=b"", timeout_ms=3_600_000
    )
    await store.runs.start(NewRun(run=run_, jobs=(new,)), max_running=10)
    (offer,) = await store.queue.offer([Want(runner=runner, caps="filling", count=1)], now=now, offer_ms=60_000)
    claim = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
    await store.queue.confirm(claim, runner, now=now)
    for seq, first in enumerate(range(0, count, 100), start=1):
        bodies = (
            {"id": number, "name": f"row {number}", "text": "x" * 120, "price": 1.5, "ok": True}
            for number in range(first, min(first + 100, count))
        )
        rows = tuple(ShippedRow(json.dumps(body).encode()) for body in bodies)
        await store.runs.append(Batch(job=offer.job, fence=offer.fence, seq=seq, rows=rows))
    await store.queue.finish(Finish(claim=claim, outcome=Outcome(succeeded=True, reason="exit")), now=now)
    await store.close()
    return slug


async def row_figures(http: httpx.AsyncClient, worker: str, rows: int) -> list[Figure]:
    """Push rows through an unmodified SDK, one call each, through the whole product."""
    begun = time.perf_counter()
    body = {"input": {"parameters": {"system": {"cpus": 4}, "custom": {"n": rows}}}, "is_async": True}
    slug = (await http.post(f"/api/v2/workers/{worker}/runs", json=body)).json()["data"]["run_slug"]
    async with http.stream("GET", f"/v1/runs/{slug}/log", params={"follow": "true"}) as log:
        async for _ in log.aiter_lines():
            pass
    pushed = time.perf_counter() - begun
    stored = (await http.get(f"/api/v2/worker-runs/{slug}")).json()["data"]["results"]
    return [
        Figure(f"rows of one Worker through the whole product ({rows:,})", rows / pushed, "rows/s"),
        Figure("... stored", stored, "rows", f"{rows}", stored == rows),
    ]


async def export_figures(http: httpx.AsyncClient, plane: Plane, slug: str) -> list[Figure]:
    """Export a million rows as CSV over HTTP, with a client that only counts."""
    serve = plane.pids("serve")
    before = memory_mib(serve)
    link = (await http.get(f"/api/v2/worker-runs/{slug}/result/export", params={"format": "csv"})).json()
    client = await asyncio.create_subprocess_exec(
        "sh", "-c", 'curl -sS "$0" | wc -l', link["data"]["download_url"], stdout=asyncio.subprocess.PIPE
    )
    begun = time.perf_counter()
    answer = asyncio.create_task(client.communicate())
    peak = before
    while not answer.done():
        await asyncio.wait([answer], timeout=0.25)
        peak = max(peak, memory_mib(serve))
    took = time.perf_counter() - begun
    lines = int((await answer)[0]) - 1
    rate = lines / took
    return [
        Figure(f"export of {lines:,} rows as CSV over HTTP", rate, "rows/s", ">= 200,000", rate >= 200_000),
        Figure("... memory of the server grows by", peak - before, "MiB", "< 100", peak - before < 100),
    ]


async def idle_figures(plane: Plane, seconds: float) -> list[Figure]:
    """Watch the daemons do nothing."""
    serve, runner = plane.pids("serve"), plane.pids("runner")
    begun = cpu_seconds(serve + runner)
    await asyncio.sleep(seconds)
    share = (cpu_seconds(serve + runner) - begun) / seconds * 100
    return [
        Figure("idle: CPU of serve and runner together", share, "%", "< 1", share < 1),
        Figure("idle: memory of serve", memory_mib(serve), "MiB", "< 150", memory_mib(serve) < 150),
        Figure("idle: memory of runner with zygotes", memory_mib(runner), "MiB", "< 150", memory_mib(runner) < 150),
    ]


async def measure(plane: Plane, filled: str, arguments: argparse.Namespace) -> list[Figure]:
    """Measure everything against one running plane."""
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{plane.port}",
        headers={"Authorization": f"Bearer {plane.key}"},
        timeout=900,
        trust_env=False,
    ) as http:
        figures = await start_figures(http, arguments.runs)
        worker, _ = await push(http, "rows", package(ROWS_MAIN, "python"))
        figures += await idle_figures(plane, 10)
        figures += await burst_figures(http, worker)
        figures += await row_figures(http, worker, 20_000)
        figures += await export_figures(http, plane, filled)
        return figures


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clawplane-bench-") as directory:
        plane = Plane(Path(directory))
        filled = asyncio.run(fill(Path(directory), arguments.rows))
        ready = plane.start(CLAWPLANE_SESSIONS="0")  # what Workers cost; sessions have a bench of their own
        try:
            figures = [Figure("clawplane up -> ready", ready * 1000, "ms")]
            figures += asyncio.run(measure(plane, filled, arguments))
        finally:
            plane.stop()
    show("End to end", figures)


if __name__ == "__main__":
    main()
