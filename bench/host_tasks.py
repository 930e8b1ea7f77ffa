"""Measure host tasks over the Task API's wire, so that the same driver measures any server that speaks it.

python -m bench.host_tasks [--url URL --token TOKEN [--pid PID]] [--seconds S] [--only ROW ...]

Without --url it starts a control plane and a runner of its own in a temporary directory; with --url it measures that
server (with --pid also its CPU and memory) and leaves out what needs a runner of ours. Every task it makes ends: it is
reported and fetched, or taken with the directory. Client and server share the machine, so the client is a thin one,
and every figure stands beside a baseline of the same run: an echo by Starlette and uvicorn spoken to by the same
client, and a commit of one row by SQLite alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.end_to_end import CLAWPLANE, bare, cpu_seconds, memory_mib
from bench.report import Figure, median, percentile, show
from bench.thin_http import ThinClient

TASK = {"command": "echo one", "timeout": 60_000}
DEEP, SHALLOW, HUGE, PARKED = 10_000, 10, 100_000, 1_000
CLIENTS, POLLERS = 64, 8
ECHO = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
async def echo(request):
    return JSONResponse(await request.json())
uvicorn.run(Starlette(routes=[Route("/echo", echo, methods=["POST"])]), port=int(sys.argv[1]), log_level="error")
"""


@dataclass
class Base:
    """What the same machine does at the same time without clawplane."""

    echo_ms: float
    echoes: float
    commits: float


@dataclass
class Server:
    """The server that is measured."""

    port: int
    token: str
    host: str = "127.0.0.1"
    pid: int | None = None
    ours: bool = False
    """Whether it has our native endpoints and a runner beside it."""
    clients: list[ThinClient] = field(default_factory=list)

    def client(self) -> ThinClient:
        """Return a client whose connections are kept between rounds."""
        made = ThinClient(self.port, {"Authorization": f"Bearer {self.token}"}, host=self.host)
        self.clients.append(made)
        return made

    def close(self) -> None:
        """Drop all connections."""
        for client in self.clients:
            client.close()
        self.clients.clear()


async def asked(http: ThinClient, method: str, path: str, body: object = None) -> Any:
    """Return the answer; the bench ends when it is none of success."""
    status, answer = await http.request(method, path, body)
    if status != 200:
        raise SystemExit(f"{method} {path} answered {status}: {answer}")
    return answer


async def submit(http: ThinClient) -> str:
    """Submit a command and return its id."""
    return str((await asked(http, "POST", "/tasks", TASK))["taskId"])


async def poll(http: ThinClient, wait: int = 1000) -> dict[str, Any] | None:
    """Ask for a task."""
    task: dict[str, Any] | None = await asked(http, "GET", f"/worker/poll?wait={wait}")
    return task


async def report(http: ThinClient, task: str) -> None:
    """Report a success."""
    body = {"taskId": task, "stdout": "one\n", "stderr": "", "exitCode": 0, "error": None, "duration": 3}
    await asked(http, "POST", "/worker/result", body)


async def settle(http: ThinClient) -> int:
    """Do and fetch everything that waits, so that a row begins with an empty queue; return how many there were."""
    done = 0
    while (task := await poll(http)) is not None:
        await report(http, task["id"])
        await asked(http, "GET", f"/tasks/{task['id']}")
        done += 1
    return done


async def at_once(server: Server, count: int, seconds: float, work: Callable[[ThinClient], Awaitable[object]]) -> float:
    """Let `count` clients repeat their work for some time and return how often it was done a second."""
    until = time.perf_counter() + seconds
    done = 0

    async def one(http: ThinClient) -> None:
        nonlocal done
        await work(http)  # opens the connection
        while time.perf_counter() < until:
            await work(http)
            done += 1

    begun = time.perf_counter()
    await asyncio.gather(*(one(server.client()) for _ in range(count)))
    rate = done / (time.perf_counter() - begun)
    server.close()
    return rate


# Rows


async def pickup(server: Server, base: Base, seconds: float) -> list[Figure]:
    """Submit while one poll waits."""
    polling, submitting = server.client(), server.client()
    taken = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        waiting = asyncio.ensure_future(poll(polling, 60_000))
        await asyncio.sleep(0.004)  # it is parked by then
        begun = time.perf_counter()
        submitted = asyncio.ensure_future(submit(submitting))
        task = await waiting
        taken.append((time.perf_counter() - begun) * 1000)
        assert task is not None and task["id"] == await submitted  # noqa: PT018
        await report(polling, task["id"])
        await asked(submitting, "GET", f"/tasks/{task['id']}")
    server.close()
    middle, tail = median(taken), percentile(taken, 0.99)
    return [
        Figure("submit -> claimed by a waiting poll, p50", middle, "ms", "< 3", middle < 3, "an echo",
               middle / base.echo_ms),
        Figure("submit -> claimed by a waiting poll, p99", tail, "ms", "< 10", tail < 10, note=f"{len(taken)} tasks"),
    ]  # fmt: skip


async def submits(server: Server, base: Base, seconds: float) -> list[Figure]:
    """Submit, each durable before its answer."""
    one = await at_once(server, 1, seconds, submit)
    many = await at_once(server, CLIENTS, seconds, submit)
    return [
        Figure("submits one after another", one, "1/s", ">= 1500", one >= 1500, "SQLite's commits alone",
               one / base.commits),
        Figure(f"submits of {CLIENTS} clients", many, "1/s", ">= 5000", many >= 5000, "echoes", many / base.echoes),
    ]  # fmt: skip


async def fill(server: Server, count: int) -> None:
    """Let `count` tasks wait."""
    left = count

    async def one(http: ThinClient) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await submit(http)

    await asyncio.gather(*(one(server.client()) for _ in range(min(CLIENTS, count))))
    server.close()


async def _claims(server: Server, seconds: float) -> list[float]:
    """Claim at an unchanged depth of the queue; return the milliseconds of each claim."""
    http, taken = server.client(), []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        task = await poll(http)
        taken.append((time.perf_counter() - begun) * 1000)
        assert task is not None
        await report(http, task["id"])
        await submit(http)
    server.close()
    return taken


async def claims(server: Server, base: Base, seconds: float) -> list[Figure]:
    """Claim from a short and from a long queue, by turns."""
    found: dict[int, list[float]] = {SHALLOW: [], DEEP: []}
    await fill(server, SHALLOW)
    found[SHALLOW] = await _claims(server, seconds)
    await fill(server, DEEP - SHALLOW)
    found[DEEP] = await _claims(server, seconds)
    shallow, deep = median(found[SHALLOW]), median(found[DEEP])
    return [
        Figure(f"claim with {SHALLOW} waiting, p50", shallow, "ms", baseline="an echo", ratio=shallow / base.echo_ms),
        Figure(f"claim with {DEEP:,} waiting, p50", deep, "ms", "no slower", deep < shallow * 1.15,
               f"that with {SHALLOW}", deep / shallow),
    ]  # fmt: skip


async def whole(server: Server, base: Base, seconds: float) -> list[Figure]:
    """Submit, poll, report, fetch: clients that wait for their results and pollers that do nothing but report."""
    stop = asyncio.Event()

    async def runner(http: ThinClient) -> None:
        while not stop.is_set():
            task = await poll(http)
            if task is not None:
                await report(http, task["id"])

    taken: list[float] = []

    async def one(http: ThinClient) -> None:
        begun = time.perf_counter()
        task = await submit(http)
        result = await asked(http, "GET", f"/tasks/{task}?wait=60000")
        if "stdout" not in result:
            raise SystemExit(f"no result within a minute: {result}")
        taken.append((time.perf_counter() - begun) * 1000)

    polling = [server.client() for _ in range(POLLERS)]
    spent = 0.0 if server.pid is None else cpu_seconds([server.pid])
    runners = [asyncio.ensure_future(runner(http)) for http in polling]
    server.clients.clear()  # at_once closes those of its own only
    rate = await at_once(server, CLIENTS, seconds, one)
    stop.set()
    await asyncio.gather(*runners)
    for http in polling:
        http.close()
    cpu = (
        "" if server.pid is None else f"{(cpu_seconds([server.pid]) - spent) / len(taken) * 1000:.2f} ms of CPU a task"
    )
    return [
        Figure(f"submit, poll, report, fetch: {CLIENTS} clients, {POLLERS} pollers", rate, "1/s", ">= 1500",
               rate >= 1500, "a quarter of the echoes", rate / (base.echoes / 4), cpu),
        Figure("... from submit to the fetched result, p50", median(taken), "ms",
               note=f"p99 {percentile(taken, 0.99):.0f} ms"),
    ]  # fmt: skip


async def parked(server: Server, base: Base, seconds: float) -> list[Figure]:
    """Let a thousand polls wait for nothing."""
    if server.pid is None:
        return []
    pids = [server.pid]
    http = server.client()
    await poll(http)
    before = memory_mib(pids)
    polls = [asyncio.ensure_future(poll(http, 60_000)) for _ in range(PARKED)]
    await asyncio.sleep(2)
    begun, since = cpu_seconds(pids), time.perf_counter()
    await asyncio.sleep(max(5.0, seconds))
    share = (cpu_seconds(pids) - begun) / (time.perf_counter() - since) * 100
    grown = memory_mib(pids) - before
    for each in polls:
        each.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
    server.close()
    await asyncio.sleep(0.5)
    return [
        Figure(f"{PARKED:,} parked polls: CPU", share, "%", "< 2", share < 2),
        Figure(f"{PARKED:,} parked polls: memory more than none", grown, "MiB", "< 60", grown < 60),
    ]


async def memory(server: Server, base: Base, seconds: float) -> list[Figure]:
    """Let a hundred thousand tasks wait."""
    if server.pid is None:
        return []
    begun = time.perf_counter()
    await fill(server, HUGE)
    took = time.perf_counter() - begun
    held = memory_mib([server.pid])
    deep = median(await _claims(server, seconds / 2))
    return [
        Figure(f"server's memory with {HUGE:,} tasks waiting", held, "MiB", "< 300", held < 300,
               note=f"submitted at {HUGE / took:,.0f}/s"),
        Figure(f"claim with {HUGE:,} waiting, p50", deep, "ms"),
    ]  # fmt: skip


async def first_byte(server: Server, task: str) -> None:
    """Follow a task's log until its first line is there."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = f"GET /v1/host/tasks/{task}/log?follow=true HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n"
    writer.write(f"{head}Authorization: Bearer {server.token}\r\nConnection: close\r\n\r\n".encode())
    received = b""
    while b"first-line" not in received:
        piece = await reader.read(1 << 16)
        if not piece:
            raise SystemExit(f"the log of a task ended without its line: {received!r}")
        received += piece
    writer.close()


async def native(server: Server, base: Base, seconds: float) -> list[Figure]:
    """Run a command on a linked runner and wait for its first output."""
    if not server.ours:
        return []
    http = server.client()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken) < 5:
        begun = time.perf_counter()
        task = str((await asked(http, "POST", "/tasks", {"command": "echo first-line", "timeout": 60_000}))["taskId"])
        await first_byte(server, task)
        taken.append((time.perf_counter() - begun) * 1000)
        await asked(http, "GET", f"/tasks/{task}?wait=60000")
    server.close()
    shell = bare_shell()
    middle = median(taken[2:])
    return [
        Figure("our runner: submit -> first output at the client, p50", middle, "ms", "< 15", middle < 15,
               "the same shell by itself", middle / shell, f"{len(taken)} tasks, bare {shell:.1f} ms"),
        Figure("our runner: submit -> first output at the client, p99", percentile(taken[2:], 0.99), "ms"),
    ]  # fmt: skip


def bare_shell() -> float:
    """Return the milliseconds of the same command in the same kind of shell without anything around it."""
    shell = next(
        path for path in ("/bin/zsh", os.environ.get("SHELL", ""), "/bin/bash", "/bin/sh") if Path(path).is_file()
    )
    with tempfile.TemporaryDirectory() as home:
        return median([bare("env", f"HOME={home}", shell, "-l", "-c", "echo first-line") for _ in range(10)])


Row = Callable[[Server, Base, float], Awaitable[list[Figure]]]
ROWS: dict[str, Row] = {
    "pickup": pickup,
    "submits": submits,
    "claims": claims,
    "whole": whole,
    "parked": parked,
    "native": native,
    "memory": memory,
}
LEAVE_TASKS = {"submits", "claims", "memory"}
"""Rows behind which tasks still wait: each begins with a server of its own when we start it."""


# Baselines


def free_port() -> int:
    """Return a port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _listens(port: int) -> None:
    until = time.perf_counter() + 30
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.perf_counter() > until:
                raise SystemExit(f"nothing listens on port {port}") from None
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def echoes(seconds: float) -> tuple[float, float]:
    """Return the median milliseconds of an echo, and how many 64 clients get a second."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", ECHO, str(port)])
    try:
        await _listens(port)
        server = Server(port, "none")
        http, taken = server.client(), []
        until = time.perf_counter() + seconds / 2
        while time.perf_counter() < until:
            begun = time.perf_counter()
            await asked(http, "POST", "/echo", TASK)
            taken.append((time.perf_counter() - begun) * 1000)
        server.close()
        rate = await at_once(server, CLIENTS, seconds, lambda http: asked(http, "POST", "/echo", TASK))
        return median(taken), rate
    finally:
        process.terminate()
        process.wait(10)


def commits(directory: Path, seconds: float) -> float:
    """Return how many rows SQLite alone commits a second, each synced."""
    base = sqlite3.connect(directory / "bare.db", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute("CREATE TABLE tasks(id TEXT PRIMARY KEY, payload TEXT)")
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        base.execute("INSERT INTO tasks VALUES (?, ?)", (secrets.token_hex(16), json.dumps(TASK)))
        done += 1
    base.close()
    return done / (time.perf_counter() - begun)


# Servers


@contextmanager
def daemon(words: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon; it is ended in order, and killed when it does not end."""
    process = subprocess.Popen([str(CLAWPLANE), *words], env=os.environ | environment, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


@contextmanager
def started(directory: Path, *, runner: bool = False) -> Iterator[Server]:
    """Start a control plane of our own, with nothing but the Task API's variables, and a linked runner if wanted."""
    port, token = free_port(), secrets.token_hex(32)
    shared = ["--data", str(directory / "data"), "--log", "warning"]
    key = secrets.token_hex(32)
    own = {"WORKER_TOKEN": token, "XDG_STATE_HOME": str(directory / "state"), "CLAWPLANE_API_KEY": key}
    (directory / "runner-token").write_text(secrets.token_hex(32))
    to_runners = str(directory / "runner-token")
    with contextlib.ExitStack() as stack:
        serve = ["serve", "--port", str(port), "--runner-token-file", to_runners, *shared]
        process = stack.enter_context(daemon(serve, own))
        asyncio.run(_listens(port))
        server = Server(port, token, pid=process.pid, ours=True)
        if runner:
            url = ["--url", f"http://127.0.0.1:{port}", "--token-file", to_runners]
            words = ["runner", "--host-tasks", *url, "--drain", "1", *shared]
            stack.enter_context(daemon(words, {"CLAWPLANE_SESSIONS": "0", "HOME": str(directory)}))
        yield server


@asynccontextmanager
async def emptied(server: Server, name: str) -> AsyncIterator[None]:
    """Leave a foreign server's queue as it was found."""
    yield
    if not server.ours and name in LEAVE_TASKS:
        await settle(server.client())
        server.close()


async def measured(server: Server, name: str, base: Base, seconds: float) -> list[Figure]:
    """Measure one row."""
    async with emptied(server, name):
        return await ROWS[name](server, base, seconds)


def measure(arguments: argparse.Namespace, base: Base) -> list[Figure]:
    """Measure every wanted row."""
    figures: list[Figure] = []
    for name in arguments.only or ROWS:
        with contextlib.ExitStack() as stack:
            if arguments.url:
                found = urlsplit(arguments.url)
                server = Server(found.port or 80, arguments.token, found.hostname or "127.0.0.1", arguments.pid)
            else:
                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="clawplane-bench-"))
                server = stack.enter_context(started(Path(directory), runner=name == "native"))
            figures += uvloop.run(measured(server, name, base, arguments.seconds))
    return figures


def main(words: Sequence[str] | None = None) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the base URL of a server that runs already")
    parser.add_argument("--token", default=os.environ.get("WORKER_TOKEN", ""), help="its WORKER_TOKEN")
    parser.add_argument("--pid", type=int, help="its process id, to measure CPU and memory")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each measurement takes")
    parser.add_argument("--only", nargs="*", choices=[*ROWS], help="rows to measure; all of them unless given")
    arguments = parser.parse_args(words)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    with tempfile.TemporaryDirectory(prefix="clawplane-bench-") as directory:
        rate = commits(Path(directory), arguments.seconds / 2)
    echo_ms, echo_rate = uvloop.run(echoes(arguments.seconds / 2))
    base = Base(echo_ms, echo_rate, rate)
    figures = [
        Figure("an echo by Starlette and uvicorn, p50", echo_ms, "ms"),
        Figure(f"echoes of {CLIENTS} clients", echo_rate, "1/s"),
        Figure("SQLite alone, one row a commit, synced", rate, "1/s"),
    ]
    show("Host tasks over the Task API", figures + measure(arguments, base))


if __name__ == "__main__":
    main()
