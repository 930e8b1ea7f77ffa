"""Keep `serve` and `runner` alive as child processes of `clawplane up`.

Who runs: this process, and two children in sessions of their own, so that a Ctrl-C of the terminal reaches only this
process and the order of the shutdown is ours: the runner drains first, while the control plane still takes its last
rows, then the control plane closes its store. A child that dies by itself is started again, after a pause that
doubles with each death in a row. A child that exits with REFUSED would refuse again, so everything stops with its
code. If this process is killed, the kernel sends its children SIGTERM (they ask for it with --parent).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence

from clawplane.cli.output import FAILED, REFUSED, say
from clawplane.client.http import Http
from clawplane.domain.errors import ClawplaneError

_STEADY_SECONDS = 10.0
_LONGEST_PAUSE = 15.0


class Child:
    """One supervised daemon."""

    def __init__(self, name: str, arguments: Sequence[str], *, without: Sequence[str] = ()) -> None:
        self.name = name
        self._arguments = [sys.executable, "-m", "clawplane", name, *arguments, "--parent", str(os.getpid())]
        self._without = frozenset(without)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.exit_code: int | None = None

    async def supervise(self) -> int:
        """Run the daemon until it is told to stop or refuses to start; return its last exit code."""
        pause = 0.25
        while True:
            started = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name not in self._without},
            )
            if self._stopping.is_set():  # told to stop while it was being started
                self._process.terminate()
            code = await self._process.wait()
            self.exit_code = code
            if self._stopping.is_set() or code == REFUSED:
                return code
            pause = 0.25 if time.monotonic() - started > _STEADY_SECONDS else min(pause * 2, _LONGEST_PAUSE)
            say(f"{self.name} ended unexpectedly ({_ending(code)}); starting it again in {pause:.1f} s.")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return code

    async def stop(self, seconds: float) -> None:
        """Ask the daemon to end, and kill it when it has not after `seconds`."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return  # being started: `supervise` sees that it is to stop
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            say(f"{self.name} did not end within {seconds:.0f} s and is killed.")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _ending(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


async def announce_ready(url: str, *, patience: float = 10.0, every: float = 0.05) -> None:
    """Tell when the control plane and a runner are ready, and after `patience` seconds why they are not yet."""
    http = Http(url, None)
    told = False
    started = time.monotonic()
    try:
        while True:
            try:
                await http.request("GET", "/healthz")
            except ClawplaneError as error:
                if not told and time.monotonic() - started > patience:
                    told, every = True, 1.0
                    say(f"Not ready yet: {error.message}")
                await asyncio.sleep(every)
                continue
            say(f"Ready: {url} (Ctrl-C ends it)")
            return
    finally:
        await http.close()


async def supervise(serve: Child, runner: Child, url: str) -> int:
    """Run both until SIGINT or SIGTERM, or until one refuses to start; return the exit code of `up`."""
    say("Starting the control plane and a runner.")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    children = (serve, runner)
    tasks = [asyncio.create_task(child.supervise(), name=child.name) for child in children]
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(announce_ready(url))
    await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    asked = stop.is_set()
    ready.cancel()
    if asked:
        say("Stopping: what is running is handed back and starts again next time.")
    await runner.stop(4.5)
    await serve.stop(4.0)
    codes = await asyncio.gather(*tasks)
    stopped.cancel()
    if asked:
        say("Stopped.")
        return 0
    return next((code for code in codes if code == REFUSED), FAILED)
