"""A Task API server that tests play: what it answers is set by the test, what it heard can be waited for."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from receiver import Heard, Receiver, Say

TOKEN = "worker-token-of-this-test"


class PlayedTaskApi:
    """Polls get what is in `polls`, one each, and otherwise wait; reports get what is in `results`, then 200."""

    def __init__(self) -> None:
        self.server = Receiver(self._play)
        self.polls: deque[Say | dict[str, Any]] = deque()
        self.results: deque[Say] = deque()
        self.heartbeats: deque[Say] = deque()
        self.open_polls = 0
        self.most_open_polls = 0
        self._more = asyncio.Condition()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return self.server.url

    async def give(self, *answers: Say | dict[str, Any]) -> None:
        """Answer the next polls with these."""
        async with self._more:
            self.polls.extend(answers)
            self._more.notify_all()

    async def reports(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many reports and return all that came."""
        heard = await self.server.until(count, lambda each: each.target == "/worker/result")
        return [each.json for each in heard]

    async def told(self, type_: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many events of a type and return them."""
        heard = await self.server.until(count, lambda each: _is_event(each, type_))
        return [each.json for each in heard]

    @property
    def events(self) -> list[tuple[str, str]]:
        """Return type and task of every event, in order."""
        told = [each.json for each in self.server.heard if each.target == "/worker/event"]
        return [(each["type"], each["taskId"]) for each in told]

    @property
    def queries(self) -> list[dict[str, str]]:
        """Return the queries of all polls that were answered."""
        targets = [each.target for each in self.server.heard if each.target.startswith("/worker/poll")]
        return [{name: values[0] for name, values in parse_qs(urlsplit(each).query).items()} for each in targets]

    async def _play(self, heard: Heard) -> Say:
        if heard.headers.get("authorization") != f"Bearer {TOKEN}":
            return Say(401, b'{"error":"Unauthorized"}')
        path = heard.target.partition("?")[0]
        if path == "/worker/poll":
            return await self._poll()
        if path == "/worker/result":
            return self.results.popleft() if self.results else Say(200, b'{"success":true}')
        if path == "/worker/event":
            return Say(200, b'{"success":true}')
        if path == "/worker/heartbeat" and self.heartbeats:
            return self.heartbeats.popleft() if len(self.heartbeats) > 1 else self.heartbeats[0]
        return Say(404, b'{"error":"Not found"}')

    async def _poll(self) -> Say:
        self.open_polls += 1
        self.most_open_polls = max(self.most_open_polls, self.open_polls)
        try:
            async with self._more:
                await self._more.wait_for(lambda: bool(self.polls))
                answer = self.polls.popleft()
        finally:
            self.open_polls -= 1
        return answer if isinstance(answer, Say) else Say(200, json.dumps(answer).encode())


def _is_event(heard: Heard, type_: str) -> bool:
    return heard.target == "/worker/event" and heard.json["type"] == type_


@asynccontextmanager
async def played_task_api() -> AsyncIterator[PlayedTaskApi]:
    """Play a Task API."""
    played = PlayedTaskApi()
    await played.server.open()
    try:
        yield played
    finally:
        await played.server.close()


def command_task(task: str, command: str, **more: Any) -> dict[str, Any]:
    """Return a command as a poll answers it."""
    plain = {"id": task, "status": "running", "createdAt": 1, "command": command, "timeout": 60_000, "type": "command"}
    return {**plain, "startedAt": 2, "completedAt": None, **more}


def codex_task(task: str, prompt: str = "hi", **more: Any) -> dict[str, Any]:
    """Return a prompt for Codex as a poll answers it."""
    return {
        "id": task,
        "status": "running",
        "createdAt": 1,
        "type": "codex-cli",
        "prompt": prompt,
        "timeout": 60_000,
        "sessionId": "11111111-2222-4333-8444-555555555555",
        "model": None,
        "callbackChannel": "77",
        "callbackBotToken": None,
        "origin": "openclaw-cli-bridge",
        "dispatchMode": "direct-command",
        "responseMode": "direct-callback",
        "entrypoint": "codex",
        "startedAt": 2,
        "completedAt": None,
        **more,
    }
