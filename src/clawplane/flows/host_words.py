"""Hear what linked runners say of host tasks while they run, and act on what concerns more than the reader of a log.

Two of an agent's words matter to others: the id under which its CLI keeps the conversation, which must be known even if
the runner dies in the middle of the turn, and a tool use that waits for a person, which somebody has to be told of. A
word is a line of JSON with the source `sdk`; whatever cannot be read is just a line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Sequence
from typing import Any, Protocol

from clawplane.domain.batches import LogLine
from clawplane.domain.clock import Clock
from clawplane.domain.errors import StoreError
from clawplane.domain.host_ports import AgentSessions, HostTasks, Outbox
from clawplane.domain.host_tasks import HostTask, TaskId
from clawplane.domain.host_trail import event_of
from clawplane.domain.tool_uses import ToolUse
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels
from clawplane.flows.questions import Questions

_log = logging.getLogger(__name__)

_LONGEST_WORD = 16_384
_USE = re.compile(r"[\w-]{1,64}", re.ASCII)


class HostWords(Protocol):
    """Whoever wants to know."""

    def said(self, task: str, lines: Sequence[LogLine]) -> None:
        """A runner told these lines of a task that it holds; never waits."""
        ...


class NobodyListens:
    """For an installation without host tasks."""

    def said(self, task: str, lines: Sequence[LogLine]) -> None:
        """Ignore it."""


class Listener:
    """Binds conversations, and records tool uses that wait for a person, with the messages that ask one."""

    def __init__(
        self,
        *,
        tasks: HostTasks,
        conversations: AgentSessions,
        outbox: Outbox,
        questions: Questions,
        wakeups: Wakeups,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._conversations = conversations
        self._outbox = outbox
        self._questions = questions
        self._wakeups = wakeups
        self._clock = clock
        self._acting: set[asyncio.Task[None]] = set()

    def said(self, task: str, lines: Sequence[LogLine]) -> None:
        """Act on the words among the lines."""
        for line in lines:
            word = _word(line)
            if word is not None:
                acting = asyncio.create_task(self._act(TaskId(task), word))
                self._acting.add(acting)
                acting.add_done_callback(self._acting.discard)

    async def close(self) -> None:
        """Finish what has begun."""
        await asyncio.gather(*self._acting, return_exceptions=True)

    async def _act(self, task: TaskId, word: dict[str, Any]) -> None:
        try:
            found = await self._tasks.find(task)
            if found is None:
                return
            if word["kind"] == "started":
                await self._bind(found, word.get("session"))
            else:
                await self._record(found, word)
        except StoreError as error:
            _log.warning("what a runner said of task %s is not kept: %s", task, error.message)

    async def _bind(self, task: HostTask, provider: object) -> None:
        if isinstance(provider, str) and provider and task.session_id is not None:
            cli = task.type.value.removesuffix("-cli")
            await self._conversations.bind(cli, task.session_id, provider[:200], now=self._clock.now_ms())

    async def _record(self, task: HostTask, word: dict[str, Any]) -> None:
        details = {name: str(word.get(name, ""))[:4000] for name in ("id", "tool", "detail", "cwd")}
        now = self._clock.now_ms()
        event = event_of(task, "task.approval-needed", at=now, details=details, source="runner")
        use = _tool_use(details, now)
        await self._outbox.put(event, () if use is None else self._questions.about_tool(task, use))
        self._wakeups.notify(channels.EVENTS)
        self._wakeups.notify(channels.CALLBACKS)


def _tool_use(details: dict[str, str], now: int) -> ToolUse | None:
    """Return what somebody can be asked about; whatever else a runner tells has no link."""
    if _USE.fullmatch(details["id"]) is None:
        return None
    return ToolUse(**details, asked_at=now)


def _word(line: LogLine) -> dict[str, Any] | None:
    if line.source != "sdk" or not 2 < len(line.content) <= _LONGEST_WORD:
        return None
    try:
        word = json.loads(line.content)
    except ValueError:
        return None
    return word if isinstance(word, dict) and word.get("kind") in ("started", "approval") else None
