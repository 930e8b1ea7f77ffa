"""Keep tasks by heartbeats, where the server has them; a plain Task API has none and is served without.

Stock is taken before the first poll, and before the next one when a poll failed: no poll is open then, so what this
runner does not name it does not have, and the server does at once what the task's policy says. That is how a restart
is told, and a task whose answer was lost. It also finds out whether the server has heartbeats. One that claims by
number (an additive `claim` in its tasks) has them, so such a task wakes a loop that had given up.

What the server has given to others is ended at once and not reported; what it wants cancelled is ended and reported.
A runner that could reach nobody for as long as the server would wait ends what it holds by claims: others may be given
it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from clawplane.domain.host_tasks import HOST_SELF_STOP_MS, TaskId
from clawplane.runner.host.stopping import Stop
from clawplane.runner.host.task_api import TaskApi, TaskApiFailed

EVERY_SECONDS: Final = 15.0
HOLDING_SECONDS: Final = 5.0
"""The period while a task is held by a claim: a cut of a minute between two beats must not cost it."""
AGAIN_SECONDS: Final = 2.0
"""The pause after a beat that failed, while a task is held."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Held:
    """A task that this runner has, and how it is told to end."""

    claim: int | None
    stop: Stop = field(default_factory=Stop)


class Heartbeats:
    """The loop; `held` is read at every beat. `about` is what the runner says of itself.

    `back` is called when the server is heard again after a beat that failed.
    """

    def __init__(
        self,
        api: TaskApi,
        about: Mapping[str, Any],
        held: Mapping[TaskId, Held],
        *,
        every: float = EVERY_SECONDS,
        monotonic: Callable[[], float],
        back: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._about = about
        self._held = held
        self._every = every
        self._monotonic = monotonic
        self._back = back
        self._heard = monotonic()
        self._beaten = monotonic()
        self._failed = False
        self._offered = True
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first beat follows, for taking stock is one, too."""
        self._loop = asyncio.create_task(self._run())

    def claimed(self) -> None:
        """Hear that a task came with a claim: this server has heartbeats, and was just reached."""
        self._heard = self._monotonic()
        if not self._offered:
            self._offered = True
            self._beaten = -math.inf
        self._wake.set()

    async def take_stock(self, reported: Iterable[tuple[TaskId, int]]) -> None:
        """Say all that this runner has, what it still reports included; raises TaskApiFailed when nobody was reached.

        Only to be called while no poll is open. A server that refuses or does not know it is served without.
        """
        number = 1
        while self._offered:
            try:
                told = await self._say(dict(reported), inventory=number)
            except TaskApiFailed as error:
                if not error.final:
                    raise
                _log.warning("The server takes no inventory: %s", error)
                return
            answer = {} if told is None else told.get("inventory")
            if not isinstance(answer, dict) or answer.get("taken") is not False:
                return  # taken, or a server that does not know of it
            last = answer.get("number")
            if not isinstance(last, int) or last < number:
                return
            number = last + 1  # an earlier life of this runner has counted so far

    async def close(self) -> None:
        """Stop."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.due_in()):
                    await self._wake.wait()
                self._wake.clear()  # a task came: the next beat is due sooner
            except TimeoutError:
                await self.beat()

    def due_in(self) -> float | None:
        """Return in how many seconds the next beat is due, None for never."""
        if not self._offered:
            return None
        holding = any(held.claim is not None for held in self._held.values())
        period = (AGAIN_SECONDS if self._failed else min(self._every, HOLDING_SECONDS)) if holding else self._every
        return max(0.0, self._beaten + period - self._monotonic())

    async def beat(self) -> None:
        """Say once what is held."""
        try:
            await self._say({})
        except TaskApiFailed as error:
            _log.debug("a heartbeat failed: %s", error)
            self._failed = True
            self._stop_the_lost()
        else:
            if self._failed:
                self._failed = False
                self._back()
        finally:
            self._beaten = self._monotonic()

    async def _say(self, reported: Mapping[TaskId, int], **more: Any) -> Mapping[str, Any] | None:
        """Say what is held, and do what the answer asks for; None when the server has no heartbeats."""
        claims = {**reported, **{task: held.claim for task, held in self._held.items() if held.claim is not None}}
        tasks = [{"taskId": task, "claim": claim} for task, claim in claims.items()]
        told = await self._api.heartbeat(json.dumps({**self._about, "tasks": tasks, **more}).encode())
        if told is None:
            self._offered = False
            return None
        self._heard = self._monotonic()
        lost = told.get("lost")
        for task in lost if isinstance(lost, list) else ():
            if (held := self._of(task)) is not None:
                _log.warning("Task %s was given to another runner; it is ended here", task)
                held.stop.drop()
        cancel = told.get("cancel")
        for each in cancel if isinstance(cancel, list) else ():
            if isinstance(each, dict) and (held := self._of(each.get("taskId"))) is not None:
                held.stop.cancel()
        return told

    def _of(self, task: object) -> Held | None:
        return self._held.get(TaskId(task)) if isinstance(task, str) else None

    def _stop_the_lost(self) -> None:
        if self._monotonic() - self._heard < HOST_SELF_STOP_MS / 1000:
            return
        for task, held in self._held.items():
            if held.claim is not None and not held.stop.asked:
                _log.warning("Task %s is ended: the server was out of reach for too long and may have moved it", task)
                held.stop.drop()
