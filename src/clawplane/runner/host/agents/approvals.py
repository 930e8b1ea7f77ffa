"""Let a person decide about every tool that Claude Code wants to use.

    claude --settings FILE --(PreToolUse)--> approval_hook.py --unix socket--> this runner --> a person
                          <--- allow, or exit 2 -------------- one JSON line ---------

The hook is a program of its own (standard library only) because that is how Claude Code asks; it knows the socket from
its argument. Settings and socket lie in a private directory that lives as long as one launch.

Everything but a clear yes is a no: no answer in time, a runner that is gone, an unreadable answer, a hook that fails.
The hook's own time-out in the settings is longer than the time the hook gives itself, because Claude Code takes a hook
that ran out of time for one that had nothing to say. `disableAllHooks` is set off here, for settings given on the
command line go before the user's own.

The agent runs as the same user and can reach the socket. All it can do there is ask; it cannot answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from clawplane.domain.questions import both_ends
from clawplane.runner.host import private
from clawplane.runner.host.agents import approval_hook
from clawplane.runner.host.agents.events import LONGEST_DETAIL, record_of, text_of
from clawplane.runner.host.agents.turn import AskPerson, ToolAnswer, ToolAsk

LOG = logging.getLogger(__name__)
_MOST_AT_ONCE: Final = 8
_LARGEST: Final = 4 << 20
_MARGIN: Final = 30.0
"""Seconds between the hook giving up and Claude Code giving up on the hook."""
_LONGEST_PATH: Final = 100
"""Of a unix socket; the system's bound is 108 bytes with the end."""


@asynccontextmanager
async def approving(directory: Path, ask: AskPerson, *, seconds: float) -> AsyncIterator[Path]:
    """Answer the hooks of one launch and yield its settings file; raises OSError when the directory cannot be used."""
    private_directory = directory / secrets.token_hex(6)
    await asyncio.to_thread(_make, directory, private_directory)
    try:
        address = private_directory / "s"
        if len(str(address).encode()) > _LONGEST_PATH:
            raise OSError(f"The path {address} is too long for a socket: choose a shorter data directory.")
        settings = private_directory / "settings.json"
        private.write(settings, json.dumps(hook_settings(address, seconds)).encode())
        desk = _Desk(ask, seconds)
        server = await asyncio.start_unix_server(desk.serve, str(address), limit=_LARGEST)
        try:
            yield settings
        finally:
            server.close()
            await desk.close()
            await server.wait_closed()
    finally:
        await asyncio.to_thread(shutil.rmtree, private_directory, ignore_errors=True)


def hook_settings(address: Path, seconds: float) -> dict[str, Any]:
    """Return the settings that make every tool use go through the hook."""
    words = [sys.executable, "-I", "-S", "-B", approval_hook.__file__, str(address), str(max(round(seconds), 1))]
    hook = {"type": "command", "command": shlex.join(words), "timeout": round(seconds + _MARGIN)}
    return {"disableAllHooks": False, "hooks": {"PreToolUse": [{"matcher": "*", "hooks": [hook]}]}}


def _make(parent: Path, directory: Path) -> None:
    os.close(private.open_directory(parent))
    os.close(private.open_directory(directory))


class _Desk:
    """Where the hooks of one launch ask."""

    def __init__(self, ask: AskPerson, seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._few = asyncio.Semaphore(_MOST_AT_ONCE)
        self._asking: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one hook."""
        task = asyncio.current_task()
        if task is not None:
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        try:
            answer = await self._answer(reader)
            said = {"allowed": answer.allowed, "reason": answer.reason}
            writer.write(json.dumps(said).encode() + b"\n")
            with suppress(OSError):
                await writer.drain()
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # the hook hears nothing and refuses
        finally:
            writer.close()

    async def close(self) -> None:
        """Leave what is still asked without an answer."""
        for task in tuple(self._asking):
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader) -> ToolAnswer:
        try:
            async with asyncio.timeout(self._seconds), self._few:
                asked = _read(await reader.readline())
                if asked is None:
                    return ToolAnswer(allowed=False, reason="The question could not be read.")
                return await self._ask(asked)
        except TimeoutError:
            return ToolAnswer(allowed=False, reason="Nobody answered in time.")
        except Exception:  # whoever asks the person may fail in any way: the tool is then refused
            LOG.exception("A tool use could not be asked about")
            return ToolAnswer(allowed=False, reason="The runner could not ask.")


def _read(line: bytes) -> ToolAsk | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    tool = text_of(record_of(said).get("tool_name"))
    if not tool:
        return None
    wanted = said.get("tool_input") or {}
    text = wanted if isinstance(wanted, str) else json.dumps(wanted, ensure_ascii=False)
    return ToolAsk(tool=tool, detail=both_ends(text, LONGEST_DETAIL), cwd=text_of(said.get("cwd")))
