"""Give host tasks to runners that poll: park their polls, claim for all of them at once, undo what did not arrive.

A poll that finds nothing is parked and costs one future and one timer. When something may have become ready (the
queue's own channel says so, or a task is submitted right here), one claim is made for the polls that have waited
longest, a few of each kind; it goes on while all of a kind were served. A claim is asked for in the same turn of the
event loop as the submission that caused it, so both are one commit.

Rules that never break: a poll whose client has gone is not claimed for; a task that was claimed for a client that went
meanwhile, or whose answer did not arrive, goes back to its old place; at the end every parked poll is answered with
nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable
from typing import Final, NamedTuple

from clawplane.domain.clock import Clock
from clawplane.domain.errors import StoreError
from clawplane.domain.host_ports import Claimed, HostTasks, Poll
from clawplane.domain.host_tasks import Reach
from clawplane.domain.ids import RunnerId
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 8
_RETRY_SECONDS: Final = 1.0


class _Parked(NamedTuple):
    """A poll that waits; `kind` is the same for polls that can be given the same tasks."""

    poll: Poll
    kind: str
    answer: asyncio.Future[Claimed | None]


class Pollers:
    """The polls that wait for a host task."""

    def __init__(self, tasks: HostTasks, wakeups: Wakeups, clock: Clock) -> None:
        self._tasks = tasks
        self._wakeups = wakeups
        self._clock = clock
        self._parked: OrderedDict[int, _Parked] = OrderedDict()
        self._number = 0
        self._latest: tuple[Reach | None, str] = None, ""
        self._claiming: asyncio.Task[None] | None = None
        self._again = False
        self._listener: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def parked(self) -> int:
        """Return how many polls wait."""
        return len(self._parked)

    @property
    def reaches(self) -> list[Reach]:
        """Return what the waiting polls could take."""
        return [parked.poll.reach for parked in self._parked.values()]

    async def start(self) -> None:
        """Take back what polls of an earlier process held, and begin to listen."""
        await self._tasks.reopen(now=self._clock.now_ms())
        self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Answer every parked poll with nothing, and stop."""
        self._closed = True
        for parked in self._parked.values():
            _give_up(parked.answer)
        self._parked.clear()
        running = [task for task in (self._listener, self._claiming) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def poll(self, poll: Poll, *, seconds: float, gone: Awaitable[object]) -> Claimed | None:
        """Return a task for this poll as soon as there is one; None after `seconds`, or when its client has `gone`."""
        if self._closed:
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Claimed | None] = loop.create_future()
        self._number += 1
        number = self._number
        self._parked[number] = _Parked(poll, self._kind(poll.reach), answer)
        self.look()
        timer = loop.call_later(seconds, _give_up, answer)
        leaving = asyncio.ensure_future(gone)
        leaving.add_done_callback(lambda _: _give_up(answer))
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and (claimed := answer.result()) is not None:
                await asyncio.shield(self.undo(claimed))
            raise
        finally:
            timer.cancel()
            leaving.cancel()
            self._parked.pop(number, None)

    def give_up(self, runner: RunnerId) -> None:
        """Answer the parked polls of a runner with nothing: it has none open, so nobody reads their answers."""
        for parked in self._parked.values():
            if parked.poll.runner == runner:
                _give_up(parked.answer)

    async def undo(self, claimed: Claimed) -> None:
        """Give a task back whose answer did not reach the poller."""
        await self._tasks.unclaim(claimed.task.id, claimed.fence, now=self._clock.now_ms())
        self._wakeups.notify(channels.READY)

    def look(self) -> None:
        """Claim for the parked polls: something may be ready. Cheap; what is asked for meanwhile follows at once."""
        if not self._parked or self._closed:
            return
        if self._claiming is None or self._claiming.done():
            self._claiming = asyncio.create_task(self._claim())
        else:
            self._again = True

    async def _listen(self) -> None:
        wakeup = self._wakeups.listen(channels.READY)
        try:
            while True:
                await wakeup.wait()
                self.look()
        finally:
            wakeup.close()

    async def _claim(self) -> None:
        more = True
        while more and self._parked:
            self._again = False
            chosen = self._chosen()
            if not chosen:
                return
            parked = [self._parked[number] for number in chosen]
            try:
                claims = await self._tasks.claim([each.poll for each in parked], now=self._clock.now_ms())
            except StoreError as error:
                _log.warning("claiming host tasks waits: %s", error.message)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            for number, claimed in zip(chosen, claims, strict=True):
                if claimed is not None:
                    await self._hand_over(number, claimed)
            unserved = {each.kind for each, claimed in zip(parked, claims, strict=True) if claimed is None}
            # where every poll of some kind was served, others of that kind may be, too
            more = self._again or any(each.kind not in unserved for each in parked)

    def _kind(self, reach: Reach) -> str:
        if reach is not self._latest[0]:  # runners of the peer say nothing of themselves, and are all alike
            self._latest = reach, _kind_of(reach)
        return self._latest[1]

    def _chosen(self) -> list[int]:
        """Return the polls that have waited longest, a few of each reach."""
        by_kind: dict[str, list[int]] = defaultdict(list)
        for number, parked in self._parked.items():
            of_kind = by_kind[parked.kind]
            if len(of_kind) < _AT_ONCE and not parked.answer.done():
                of_kind.append(number)
        return sorted(number for numbers in by_kind.values() for number in numbers)

    async def _hand_over(self, number: int, claimed: Claimed) -> None:
        parked = self._parked.pop(number, None)
        if parked is not None and not parked.answer.done():
            parked.answer.set_result(claimed)
            return
        await self.undo(claimed)


def _kind_of(reach: Reach) -> str:
    return repr((reach.groups, reach.runner, reach.name, sorted(reach.labels.items())))


def _give_up(answer: asyncio.Future[Claimed | None]) -> None:
    if not answer.done():
        answer.set_result(None)
