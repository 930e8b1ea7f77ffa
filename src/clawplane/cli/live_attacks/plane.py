"""A control plane and a runner of their own, in a directory that goes with them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from clawplane.domain.errors import Unavailable
from clawplane.sandbox.selftest.scratch import scratch

_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.05
_CANARY: Final = "This file belongs to the host. No session may see it or change it.\n"
_KEPT: Final = {"PATH", "LANG", "LC_ALL", "TZ"}


class LiveSession:
    """One session under attack."""

    def __init__(self, http: httpx.AsyncClient, id_: str) -> None:
        self.id = id_
        self.path = f"/v1/sessions/{id_}"
        self._http = http

    async def execute(self, language: str, code: str, **more: Any) -> dict[str, Any]:
        """Execute code and return the result as the API gives it; `more` are parameters such as timeout."""
        answer = await self._http.post(f"{self.path}/exec", json={"tool": language, "code": code, **more})
        found: dict[str, Any] = answer.json()
        return found

    async def python(self, code: str, **more: Any) -> dict[str, Any]:
        """Execute Python."""
        return await self.execute("python", code, **more)

    async def shell(self, code: str, **more: Any) -> dict[str, Any]:
        """Execute a shell command."""
        return await self.execute("shell", code, **more)

    async def value(self, code: str) -> str:
        """Return the text of the last expression, or the error's."""
        result = await self.python(code)
        results = result.get("results") or []
        return str(results[-1].get("text/plain")) if results else f"no value ({result.get('error')})"

    async def reset(self) -> int:
        """Forget all variables; return the status."""
        answer = await self._http.post("/v1/tools/reset_repl", json={"session_id": self.id})
        return answer.status_code

    async def delete(self) -> None:
        """End it."""
        await self._http.delete(self.path)


class PrivatePlane:
    """What is attacked. `http` speaks with the admin's key, `stranger` with the key of another tenant."""

    def __init__(self, directory: Path, url: str, http: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        self.directory = directory
        self.url = url
        self.http = http
        self.stranger = stranger
        self.canary = directory / "canary"
        self._lives: list[LiveSession] = []
        self._process: asyncio.subprocess.Process | None = None

    async def begin(self, **options: Any) -> LiveSession:
        """Create a session, which `leave` deletes; profile `bare` unless said otherwise."""
        answer = await self.http.post("/v1/sessions", json={"profile": "bare", **options})
        if answer.status_code != 201:
            raise Unavailable(f"No session could be created: {answer.text[:200]}")
        live = LiveSession(self.http, answer.json()["id"])
        self._lives.append(live)
        return live

    async def leave(self) -> None:
        """Delete the sessions of one attack."""
        while self._lives:
            await self._lives.pop().delete()

    async def healthy(self) -> bool:
        """Tell whether the control plane answers."""
        try:
            return (await self.http.get("/healthz")).status_code == 200
        except httpx.HTTPError:
            return False

    def runner_pid(self) -> int:
        """Return the process of the runner, 0 while there is none."""
        above = self._process.pid if self._process is not None else 0
        for task in Path(f"/proc/{above}/task").iterdir():
            for pid in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    if b"\0runner\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return int(pid)
        return 0

    async def start(self, environment: Mapping[str, str], port: int, *, lock: int) -> None:
        """Start it and wait until it is ready; raises Unavailable with what it said.

        It holds the `lock` of its directory, too, so that nobody takes that away from one that has outlived us.
        """
        self.canary.write_text(_CANARY)
        words = ["up", "--port", str(port), "--data", str(self.directory / "data"), "--log", "warning"]
        with (self.directory / "said").open("wb") as said_to:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "clawplane",
                *words,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=said_to,
                start_new_session=True,
                pass_fds=(lock,),
            )
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not (await self.healthy() and self.runner_pid()):
                    if self._process.returncode is not None:
                        raise TimeoutError
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            said = (self.directory / "said").read_text(errors="replace")[-500:]
            raise Unavailable("The plane to be attacked did not start.", details=said.splitlines()) from None

    async def stop(self) -> None:
        """End it, and everything it started."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _END_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def canary_holds(self) -> bool:
        """Tell whether the host's file is as it was."""
        return self.canary.read_text() == _CANARY


@asynccontextmanager
async def private_plane() -> AsyncIterator[PrivatePlane]:
    """Start a plane on a free port of this host's loopback; it ends and is removed with the block."""
    key, port = secrets.token_hex(32), free_port()
    url = f"http://127.0.0.1:{port}"
    with scratch() as kept:
        environment = environment_of(kept.path, key) | {"CLAWPLANE_SESSION_POOL": "4"}
        async with _client(url, key) as http, _client(url, "") as stranger:
            plane = PrivatePlane(kept.path, url, http, stranger)
            try:
                await plane.start(environment, port, lock=kept.lock)
                asked = {"name": "a stranger", "scopes": ["workers", "sessions", "host"], "owner": "stranger"}
                made = await http.post("/v1/keys", json=asked)
                stranger.headers["Authorization"] = f"Bearer {made.json()['data']['key']}"
                yield plane
            finally:
                await plane.stop()


def environment_of(home: Path, key: str) -> dict[str, str]:
    """Return the environment of what is started: little of this one, and every file below `home`."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT}
    files = {"HOME": str(home), "TMPDIR": str(home), "XDG_STATE_HOME": str(home / "state")}
    return kept | files | {"CLAWPLANE_API_KEY": key}


def _client(url: str, key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=60.0, trust_env=False)


def free_port() -> int:
    """Return a port of this host's loopback on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def said(result: dict[str, Any]) -> str:
    """Return a result in a few words, for a report."""
    return json.dumps({name: result.get(name) for name in ("status", "error", "stdout", "stderr")})[:300]
