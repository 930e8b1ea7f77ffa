"""Serve the tool `mac_remote` on standard input and output, as agents know it: one JSON message a line.

It speaks the Task API and nothing else of ours, so it works against every server that does. Its contract is older than
the SDK's versions of MCP (2024-11-05, fixed texts, fixed codes), which is why it is written by hand.

A call submits a command and asks for its result once. What has not ended by then is named in the answer with its task
id, and `mac_remote_result` fetches it: no result is lost. Requests are answered as they end, in any order; `ping` never
waits. A notification is never answered, whatever it says.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, BinaryIO, Final

import httpx

from clawplane.domain.errors import InvalidArgument

_VERSION: Final = "2024-11-05"
_WAIT_MS: Final = 35_000
_HTTP_SECONDS: Final = 40.0
_TIMEOUT_MS: Final = 30_000
_PENDING: Final = frozenset({"pending", "running"})
_PARSE, _REQUEST, _METHOD, _PARAMS = -32700, -32600, -32601, -32602
_TOOLS: Final = [
    {
        "name": "mac_remote",
        "description": "Run a shell command on the remote machine. It runs with its owner's rights.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "command": {"type": "string", "description": "The command."},
                "timeout": {"type": "number", "description": "Milliseconds it may take; default 30000."},
            },
            "required": ["command"],
        },
    },
    {
        "name": "mac_remote_result",
        "description": "Fetch the result of a command that had not ended when mac_remote answered.",
        "inputSchema": {
            "type": "object",
            "properties": {"taskId": {"type": "string", "description": "The id that mac_remote told."}},
            "required": ["taskId"],
        },
    },
]


class Refused(Exception):
    """A request that is answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Failed(Exception):
    """A call of a tool that failed; the message is for the model."""


async def serve_remote(lines: AsyncIterator[bytes], write: Callable[[bytes], None], *, url: str, token: str) -> None:
    """Answer every line until there are no more; what is under way then is answered first."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=_HTTP_SECONDS) as http:
        remote = Remote(http)
        under_way: set[asyncio.Task[None]] = set()
        async for line in lines:
            if line.strip():
                task = asyncio.create_task(_one(remote, line, write))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)


async def _one(remote: Remote, line: bytes, write: Callable[[bytes], None]) -> None:
    answer = await remote.heard(line)
    if answer is not None:
        write(json.dumps(answer, ensure_ascii=True).encode() + b"\n")


class Remote:
    """The server, without its streams; `wait_ms` is how long a call waits for its end, once."""

    def __init__(self, http: httpx.AsyncClient, *, wait_ms: int = _WAIT_MS) -> None:
        self._http = http
        self._wait_ms = wait_ms

    async def heard(self, line: bytes) -> dict[str, Any] | None:
        """Return the answer to one line; None for a notification."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return _error(None, _PARSE, "Parse error")
        if not isinstance(message, dict):
            return _error(None, _REQUEST, "Invalid Request")
        if message.get("id") is None:
            return None
        number = message["id"]
        try:
            result = await self._answer(str(message.get("method")), _members(message.get("params")))
        except Refused as refused:
            return _error(number, refused.code, str(refused))
        return {"jsonrpc": "2.0", "id": number, "result": result}

    async def _answer(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        match method:
            case "initialize":
                return {
                    "protocolVersion": _VERSION,
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "mac-remote-mcp", "version": "1.0.0"},
                }
            case "ping":
                return {}
            case "tools/list":
                return {"tools": _TOOLS}
            case "tools/call":
                return await self._call(str(params.get("name")), _members(params.get("arguments")))
        raise Refused(_METHOD, f"Method not found: {method[:100]}")

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        tools: dict[str, Callable[[Mapping[str, Any]], Awaitable[tuple[str, bool]]]] = {
            "mac_remote": self._run,
            "mac_remote_result": self._late,
        }
        if name not in tools:
            raise Refused(_METHOD, f"Unknown tool: {name[:100]}")
        try:
            text, failed = await tools[name](arguments)
        except Failed as error:
            text, failed = f"Error: {error}", True
        return {"content": [{"type": "text", "text": text}], "isError": failed}

    async def _run(self, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        command = arguments.get("command")
        if not isinstance(command, str) or not command.strip():
            raise Refused(_PARAMS, "Command is required")
        timeout = arguments.get("timeout")
        given = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        body = {"command": command, "timeout": timeout if given else _TIMEOUT_MS}
        made = await self._ask("POST", "/tasks", body)
        return await self._fetched(str(made.get("taskId")))

    async def _late(self, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        task = arguments.get("taskId")
        if not isinstance(task, str) or not task.strip() or not task.replace("-", "").replace("_", "").isalnum():
            raise Refused(_PARAMS, "taskId is required")
        return await self._fetched(task)

    async def _fetched(self, task: str) -> tuple[str, bool]:
        found = await self._ask("GET", f"/tasks/{task}?wait={self._wait_ms}", None)
        if found.get("status") in _PENDING and "stdout" not in found:
            told = "it runs" if found["status"] == "running" else "no runner has taken it; the machine may be offline"
            return (
                f"The command has not ended: {told}. Call mac_remote_result with taskId {task} to fetch its result.",
                False,
            )
        code = found.get("exitCode")
        return f"Exit code: {code}\n{_output(found)}", code != 0 or isinstance(code, bool)

    async def _ask(self, method: str, path: str, body: object) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, json=body)
            answer = response.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Failed(
                f"The server cannot be reached: {error or type(error).__name__}. Check MAC_WORKER_URL."
            ) from None
        except ValueError:
            raise Failed(f"What answers at MAC_WORKER_URL is no Task API (HTTP {response.status_code}).") from None
        if not isinstance(answer, dict):
            raise Failed(f"What answers at MAC_WORKER_URL is no Task API (HTTP {response.status_code}).")
        if response.status_code == 401:
            raise Failed("The server refuses the token. Check MAC_WORKER_TOKEN.")
        if response.status_code >= 400:
            raise Failed(str(answer.get("error") or f"HTTP {response.status_code}"))
        return answer


def _output(found: Mapping[str, Any]) -> str:
    parts = [str(found.get("stdout") or "")]
    parts += [f"[{name}]\n{found[key]}" for name, key in (("stderr", "stderr"), ("error", "error")) if found.get(key)]
    return "\n".join(part.rstrip("\n") for part in parts if part) or "(no output)"


def _members(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _error(number: object, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}


async def input_lines(stream: BinaryIO) -> AsyncIterator[bytes]:
    """Yield the lines of a blocking stream; its reader ends with it, or with the process."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        line = b"-"
        while line:
            line = stream.readline()
            try:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            except RuntimeError:
                return  # the loop is closed: nobody listens any more

    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        yield line


async def remote_on_standard_streams(environment: Mapping[str, str] | None = None) -> None:
    """Serve on standard input and output with MAC_WORKER_URL and MAC_WORKER_TOKEN."""
    found = os.environ if environment is None else environment
    url = (found.get("MAC_WORKER_URL") or "http://127.0.0.1:3456").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"MAC_WORKER_URL is no address: {url[:100]!r}.", hint="Write it as http://HOST:PORT.")

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    await serve_remote(input_lines(sys.stdin.buffer), write, url=url, token=found.get("MAC_WORKER_TOKEN", "").strip())
