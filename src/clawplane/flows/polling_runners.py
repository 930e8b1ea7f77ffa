"""Runners that poll over the Task API: who they are, that they live, and what they still hold.

A peer's runner says nothing of itself; its tasks end by their deadlines. One that names itself (`runnerId`) is listed
beside the linked runners, under an id that begins with `poll:`. One that sends heartbeats keeps its tasks by them: each
heartbeat names the tasks with the claim under which each was given, and is answered with what is not its own any more
and what it shall stop.

Between two polls a runner can take stock: it has no poll open, and what it does not name it does not have, because it
was started anew or an answer was lost. An inventory is numbered, and counts only when its number is higher than all
before, so that one that was delayed on its way takes nothing back that was given since.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from typing import Final

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.errors import Conflict, NotFound
from clawplane.domain.host_ports import Stock
from clawplane.domain.host_tasks import Reach, TaskId, TaskStatus
from clawplane.domain.ids import POLLS, JobId, RunnerId
from clawplane.domain.leases import RunnerRecord
from clawplane.domain.ports import Queue
from clawplane.domain.tool_uses import Decide, ToolUse
from clawplane.flows.host_tasks import HostWork
from clawplane.flows.runner_links import HOST, known_runners

_log = logging.getLogger(__name__)

ANONYMOUS: Final = RunnerId(f"{POLLS}anonymous")

_SEEN_EVERY: Final = 5.0
_REMEMBERED: Final = 4096


class HeldTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that a runner says it runs, with the claim under which it was given."""

    task: TaskId
    claim: int


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """What a heartbeat is answered with: tasks that are not this runner's any more, and tasks to stop, with why."""

    lost: tuple[TaskId, ...]
    cancel: tuple[tuple[TaskId, str], ...]


class PollingRunners:
    """What the control plane knows of runners that poll."""

    def __init__(self, host: HostWork, queue: Queue, clock: Clock) -> None:
        self._host = host
        self._queue = queue
        self._clock = clock
        self._seen: OrderedDict[RunnerId, float] = OrderedDict()

    async def polled(self, runner: RunnerId, reach: Reach) -> None:
        """Note that a named runner asks for tasks; stored at most every few seconds."""
        now = self._clock.monotonic()
        if now - self._seen.get(runner, -_SEEN_EVERY) < _SEEN_EVERY:
            return
        self._seen[runner] = now
        self._seen.move_to_end(runner)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        await self._queue.upsert_runner(self._record(runner, reach, version="", slots=0))

    async def heard(
        self, runner: RunnerId, reach: Reach, held: Sequence[HeldTask], *, version: str, slots: int
    ) -> Beat:
        """Note a heartbeat; `slots` is how many tasks the runner takes at once, 0 when it did not say."""
        await self._queue.upsert_runner(self._record(runner, reach, version=version, slots=slots))
        jobs: dict[JobId, TaskId] = {}
        claims: list[tuple[JobId, int]] = []
        lost: list[TaskId] = []
        for each in held:
            try:
                task = await self._host.find(each.task)
            except NotFound:
                lost.append(each.task)
                continue
            jobs[task.job] = each.task
            claims.append((task.job, each.claim))
        told = await self._queue.heartbeat(runner, claims, now=self._clock.now_ms())
        return Beat(
            lost=(*lost, *(jobs[job] for job, _ in told.lost)),
            cancel=tuple((jobs[job], reason) for job, _, reason in told.cancels),
        )

    async def took_stock(self, runner: RunnerId, number: int, held: Sequence[HeldTask]) -> Stock:
        """Take back what a runner does not name: it says that it has no poll open, and has this and nothing else."""
        stock = await self._host.take_stock(runner, number, [(each.task, each.claim) for each in held])
        if stock.lost:
            _log.warning("runner %s lost %d tasks: %s", runner, len(stock.lost), ", ".join(stock.lost))
        return stock

    async def ask(
        self, task_id: TaskId, claim: int, use: ToolUse, *, told: bool, seconds: float, gone: Awaitable[object]
    ) -> Decide | None:
        """Return a person's word about a tool use of a task that its runner holds; None: not within `seconds`.

        Raises NotFound, and Conflict when the task is not the caller's under this claim any more.
        """
        task = await self._host.find(task_id)
        holder = RunnerId(task.runner or "")
        beat = await self._queue.heartbeat(holder, [(task.job, claim)], now=self._clock.now_ms())
        if task.status is not TaskStatus.RUNNING or not holder.startswith(POLLS) or beat.lost:
            raise Conflict("This task is not held under this claim.")
        return await self._host.polled.ask(task, use, told=told, seconds=seconds, gone=gone)

    async def all(self) -> list[RunnerRecord]:
        """Return the runners that take host tasks by their last word, also those that are away.

        Those are all that poll, and the linked ones that announced the capability.
        """
        known = await known_runners(self._queue, self._clock.now_ms())
        return [record for record in known if HOST in record.capabilities]

    def _record(self, runner: RunnerId, reach: Reach, *, version: str, slots: int) -> RunnerRecord:
        return RunnerRecord(
            id=runner,
            name=reach.name,
            version=version,
            capabilities=(HOST, *(f"{HOST}@{group}" for group in reach.groups)),
            labels=reach.labels,
            slots={HOST: slots} if slots else {},
            connected=True,
            last_seen=self._clock.now_ms(),
        )
