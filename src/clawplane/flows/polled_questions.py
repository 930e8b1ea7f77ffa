"""Keep the tool uses of agents on runners that poll and wait for a person, and hand each runner its answer.

Such a runner cannot be asked what waits there; so it asks, again and again, and each of its requests is held for a
while. What waits is kept in memory only: a server that starts anew learns it from the next request, and does not tell
people again what they were told (`told`). An answer stays for a while after it was given, for the request that carries
it may be lost; a question that nobody has asked for a minute is over, for its runner is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final

from clawplane.domain.clock import Clock
from clawplane.domain.errors import Conflict
from clawplane.domain.host_ports import Outbox
from clawplane.domain.host_tasks import HostTask, TaskId
from clawplane.domain.host_trail import event_of
from clawplane.domain.tool_uses import Decide, ToolUse
from clawplane.domain.waiting import first_of
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels
from clawplane.flows.questions import Questions

_UNASKED_SECONDS: Final = 60.0
_ANSWERED_SECONDS: Final = 600.0
_MOST: Final = 64


@dataclass(eq=False, slots=True)
class _Open:
    use: ToolUse
    asked: float
    """When a request about it was there last."""
    requests: int = 0
    answer: asyncio.Future[Decide] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class PolledQuestions:
    """What waits, by task."""

    def __init__(self, outbox: Outbox, questions: Questions, wakeups: Wakeups, clock: Clock) -> None:
        self._outbox = outbox
        self._questions = questions
        self._wakeups = wakeups
        self._clock = clock
        self._open: dict[TaskId, dict[str, _Open]] = {}
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        """Answer every request with what there is; safe to call twice."""
        if not self._closing.done():
            self._closing.set_result(None)

    async def ask(
        self, task: HostTask, use: ToolUse, *, told: bool, seconds: float, gone: Awaitable[object]
    ) -> Decide | None:
        """Return a person's word about a tool use, waiting for it while the runner is there; None: not yet.

        Who can be told of a new one is told, unless it is `told`. Raises Conflict when too many wait.
        """
        self._forget()
        uses = self._open.setdefault(task.id, {})
        open_ = uses.get(use.id)
        if open_ is None:
            if len(uses) >= _MOST:
                raise Conflict("Too many tool uses of this task wait for a person.")
            open_ = uses[use.id] = _Open(use, self._clock.monotonic())
            if not told:
                await self._tell(task, use)
        open_.requests += 1
        leaving = asyncio.ensure_future(gone)
        try:
            await first_of(open_.answer, leaving, self._closing, seconds=seconds)
        finally:
            leaving.cancel()
            open_.requests -= 1
            open_.asked = self._clock.monotonic()
        return open_.answer.result() if open_.answer.done() else None

    def waiting_of(self, task: TaskId) -> tuple[ToolUse, ...]:
        """Return the tool uses of a task that wait, oldest first."""
        self._forget()
        return tuple(each.use for each in self._open.get(task, {}).values() if not each.answer.done())

    def decide(self, task: TaskId, word: Decide) -> bool:
        """Answer a question; False when it does not wait."""
        self._forget()
        open_ = self._open.get(task, {}).get(word.id)
        if open_ is None or open_.answer.done():
            return False
        open_.answer.set_result(word)
        return True

    async def _tell(self, task: HostTask, use: ToolUse) -> None:
        details = {"id": use.id, "tool": use.tool, "detail": use.detail, "cwd": use.cwd}
        event = event_of(task, "task.approval-needed", at=self._clock.now_ms(), details=details, source="runner")
        await self._outbox.put(event, self._questions.about_tool(task, use))
        self._wakeups.notify(channels.EVENTS)
        self._wakeups.notify(channels.CALLBACKS)

    def _forget(self) -> None:
        now = self._clock.monotonic()
        for task, uses in list(self._open.items()):
            for id_, each in list(uses.items()):
                kept = _ANSWERED_SECONDS if each.answer.done() else _UNASKED_SECONDS
                if not each.requests and now - each.asked > kept:
                    del uses[id_]
            if not uses:
                del self._open[task]
