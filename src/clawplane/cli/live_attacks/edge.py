"""Attacks on the edge of a control plane: what it prints and logs, and what it reads before it knows who asks."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import httpx

from clawplane.cli.live_attacks.items import LiveAttack, listed, must
from clawplane.cli.live_attacks.plane import PrivatePlane, environment_of, free_port

_PATIENCE: Final = 20.0
_LOOK_SECONDS: Final = 0.05
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_TAKEN: Final = 64 * _MIB
"""What a server may take of a body without end: its limit for bodies, and what it hears out after its answer."""
_ESCAPES: Final = "\x1b[2J\x1b]0;pwned\x07\x9b31m\r\u202e"
_CROWD: Final = 200
_SLOW: Final = 20
_HEAD_SECONDS: Final = 45.0
_HEADS: Final = (
    b"GET /" + b"a" * _MIB,
    b"GET / HTTP/1.1\r\nX: " + b"a" * _MIB,
    b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * (1 << 18),
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"X: a\r\n" * (1 << 18),
)
_BODIES: Final = ("[" * 100_000, '{"code":' + '{"a":' * 10_000 + "1" + "}" * 10_001, '{"code": "1"', "\ud800")


def attacks() -> list[LiveAttack]:
    """Return the attacks."""
    rows = (
        (67, "injects into terminals", "shown escaped", _terminals),
        (67, "injects into logs", "one clean line a request", _logs),
        (69, "bombs the HTTP API", "refused early", _bomb),
        (69, "dribbles heads to the HTTP API", "hung up on", _dribble),
    )
    return listed(rows)


# 67: terminals and logs


async def _terminals(plane: PrivatePlane) -> None:
    """Put escape sequences into names and outputs, and read what the command line prints of them."""
    mark = f"pwned{secrets.token_hex(6)}"
    live = await plane.begin()
    name = f"{mark}{_ESCAPES}"
    put = await plane.http.put(f"{live.path}/files/content", params={"path": name}, content=b"x")
    must(put.status_code == 201, f"the file was refused: {put.text}")
    task = await plane.http.post("/v1/host/tasks", json={"type": "command", "command": name})
    code = f"import sys\nsys.stdout.write({name!r})\nsys.stderr.write({name!r})\nraise ValueError({name!r})"
    commands = (
        ("session", "files", live.id),
        ("exec", "python", code, "--session", live.id),
        ("task", "list"),
        ("session", "show", f"no{mark}{_ESCAPES}"),
    )
    try:
        shown = await asyncio.gather(*(_printed(plane, *words) for words in commands))
    finally:
        await plane.http.post(f"/v1/host/tasks/{task.json()['data']['task']['id']}/cancel", json={})
    for words, text in zip(commands, shown, strict=True):
        must(mark in text, f"`clawplane {words[0]} {words[1]}` shows nothing of it: {text}")
        must(_clean(text), f"`clawplane {words[0]} {words[1]}` prints {text!r}")


async def _printed(plane: PrivatePlane, *words: str) -> str:
    key = plane.http.headers["Authorization"].split()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clawplane",
        *words,
        env=environment_of(plane.directory, key) | {"PYTHONUTF8": "1", "CLAWPLANE_URL": plane.url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return (out + err).decode()


def _clean(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)


async def _logs(plane: PrivatePlane) -> None:
    """Ask a control plane that logs each request, with paths and headers that would write lines of their own."""
    mark = secrets.token_hex(6)
    forged = f"\n2026-01-01T00:00:00.000Z ERROR   serve {mark}{_ESCAPES}"
    headers = [(b"user-agent", mark.encode() + b"\t\x9b31m"), (b"x-request-id", mark.encode() + b"\t\x9b31m")]
    async with (
        _logging(plane) as (url, log),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=_PATIENCE) as http,
    ):
        for path in (f"/v1/{quote(forged)}", f"/v1/sessions/{quote(forged)}", f"/v1/x?y={quote(forged)}"):
            for more in ([], headers):
                status = (await http.get(path, headers=more)).status_code
                must(status < 500, f"{path} is answered {status}")
    text = log.read_bytes().decode()
    must(text.count(" GET ") >= 6, f"the requests are not in the log: {text}")
    must(_clean(text), f"the log holds {text!r}")
    lines = [line for line in text.splitlines() if mark in line]
    must(lines, "nothing of the requests is in the log")
    must(all(" GET " in line for line in lines), f"a line was forged: {lines}")


@asynccontextmanager
async def _logging(plane: PrivatePlane) -> AsyncIterator[tuple[str, Path]]:
    """Start a control plane alone that logs requests; yield its address and its log."""
    home = plane.directory / f"logging-{secrets.token_hex(4)}"
    home.mkdir()
    log = home / "log"
    port = free_port()
    words = ("serve", "--port", str(port), "--data", str(home / "data"), "--log", "info")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clawplane",
        *words,
        env=environment_of(home, secrets.token_hex(32)) | {"PYTHONUTF8": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=await asyncio.to_thread(log.open, "wb"),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http, asyncio.timeout(_PATIENCE):
            while not await _answers(http):
                must(process.returncode is None, f"the control plane did not start: {log.read_text(errors='replace')}")
                await asyncio.sleep(_LOOK_SECONDS)
        yield url, log
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        await http.get("/healthz")
    except httpx.TransportError:
        return False
    return True


# 69: bombs


async def _bomb(plane: PrivatePlane) -> None:
    """Send heads, bodies and trees without end, and a crowd of connections that say half a word."""
    async with AsyncExitStack() as crowd:
        for _ in range(_CROWD):
            _, writer = await crowd.enter_async_context(_connected(plane))
            writer.write(b"GET / HTTP/1.1\r\nHo")
        for head in _HEADS:
            answer = await _said(plane, head)
            must(
                answer == b"" or answer.split(b" ")[1] in (b"400", b"404", b"431"),
                f"a head without end: {answer[:80]!r}",
            )
            must(await plane.healthy(), f"{head[:20]!r}: the control plane does not answer")
        live = await plane.begin()
        for path in (f"{live.path}/exec", "/v1/sessions", "/v1/tools/execute_python", "/v1/host/tasks"):
            for body in _BODIES:
                refused = await plane.http.post(path, content=body.encode("utf-8", "surrogatepass"))
                must(refused.status_code in (400, 422), f"{path} {body[:20]!r}: {refused.status_code} {refused.text}")
        announced = f"Content-Length: {_GIB}\r\nExpect: 100-continue\r\n\r\n"
        answer = await _said(plane, _head(plane, f"{live.path}/exec") + announced.encode())
        must(answer.startswith(b"HTTP/1.1 413"), f"a body of a gigabyte that is announced: {answer[:80]!r}")
        await _endless_body(plane, f"{live.path}/exec")
        must(await live.value("6 * 7") == "42", "the session does not work any more")


async def _endless_body(plane: PrivatePlane, path: str) -> None:
    async with _connected(plane) as (_, writer):
        writer.write(_head(plane, path) + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with suppress(ConnectionError):
            while sent < 4 * _TAKEN:
                writer.write(b"100000\r\n" + b" " * _MIB + b"\r\n")
                await writer.drain()
                sent += _MIB
        must(sent < 4 * _TAKEN, f"{sent} bytes of a body were taken")


def _head(plane: PrivatePlane, path: str) -> bytes:
    key = plane.http.headers["Authorization"]
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Type: application/json\r\n".encode()


async def _dribble(plane: PrivatePlane) -> None:
    """Say half a head, and see that others are answered meanwhile and that the connection ends."""
    async with AsyncExitStack() as crowd, asyncio.timeout(_HEAD_SECONDS):
        waiting = []
        for number in range(_SLOW):
            reader, writer = await crowd.enter_async_context(_connected(plane))
            writer.write(b"GET / HTTP/1.1\r\nX: "[: number + 1])
            waiting.append(reader.read())
        must(await plane.healthy(), "nobody else is answered")
        for answer in await asyncio.gather(*waiting):
            must(answer.startswith(b"HTTP/1.1 408"), f"half a head is answered with {answer[:80]!r}")


@asynccontextmanager
async def _connected(plane: PrivatePlane) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    at = urlsplit(plane.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _said(plane: PrivatePlane, request: bytes) -> bytes:
    """Send what is no whole request; return what is said until the server hangs up, or nothing when it just does."""
    async with _connected(plane) as (reader, writer), asyncio.timeout(_PATIENCE):
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionError:
            return b""
