"""End what time has ended: offers nobody took, leases of silent runners, attempts past their deadline.

`run` sleeps until the earliest moment at which there is something to end. That moment is kept here and moves closer
with every offer and confirmation (`not_later_than`), so nothing is polled and an idle system sleeps for good.

Silence is judged only while this process could have heard: after a start, whenever the loop was late by more than a
heartbeat (a suspended machine, a stalled process), and when the store refused (a full disk, a locked database), runners
get a full silence time to speak before they count as dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from clawplane.domain.clock import Clock
from clawplane.domain.errors import StoreError
from clawplane.domain.leases import HEARTBEAT_EVERY_MS, SILENCE_MS
from clawplane.domain.ports import Expired, Queue

_log = logging.getLogger(__name__)

FOREVER_MS: Final = 1 << 45
_RETRY_SECONDS: Final = 1.0
_BREATH_MS: Final = 10
_LONGEST_SLEEP: Final = 3600.0


class Expiry:
    """The loop that expires; `tell` hears what has ended each time."""

    def __init__(self, queue: Queue, clock: Clock, tell: Callable[[Expired], Awaitable[None]]) -> None:
        self._queue = queue
        self._clock = clock
        self._tell = tell
        self._sooner = asyncio.Event()
        self._due: int | None = None
        self._judge_from = 0
        self._awake_at = clock.monotonic()

    def not_later_than(self, at: int) -> None:
        """Look again at `at` (milliseconds) at the latest."""
        if self._due is None or at < self._due:
            self._due = at
            self._sooner.set()

    async def run(self) -> None:
        """Expire until cancelled."""
        self._be_patient()
        while True:
            try:
                await self._expire()
            except StoreError as error:
                _log.warning("expiry waits: %s", error.message)
                self._be_patient()  # no sign of life could be stored either
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await self._sleep()

    async def _expire(self) -> None:
        now = self._clock.now_ms()
        self._awake_at = self._clock.monotonic()
        silence = SILENCE_MS if now >= self._judge_from else FOREVER_MS
        self._sooner.clear()
        self._due = None  # whatever is offered from here on moves it closer again
        await self._tell(await self._queue.expire(now=now, silence_ms=silence))
        due = await self._queue.next_expiry(silence_ms=silence)
        if due is None:
            return
        # a millisecond later than the store says, so that it does not matter whether an end counts as past
        due = max(due + 1, now + _BREATH_MS)
        self.not_later_than(due if silence == SILENCE_MS else min(due, self._judge_from))

    async def _sleep(self) -> None:
        """Wait for the kept moment, or for it to move closer."""
        if self._due is None:
            await self._sooner.wait()
            self._awake_at = self._clock.monotonic()
        while self._due is not None:
            due = self._due
            self._sooner.clear()
            seconds = min(_LONGEST_SLEEP, max(0.0, (due - self._clock.now_ms()) / 1000))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._sooner.wait()
            self._notice_standstill(seconds)
            if self._clock.now_ms() >= due:
                return

    def _notice_standstill(self, planned: float) -> None:
        """Be patient with runners when more time has passed since the last look than was planned to."""
        now = self._clock.monotonic()
        late = now - self._awake_at - planned
        self._awake_at = now
        if late * 1000 > HEARTBEAT_EVERY_MS:
            _log.warning("the control plane stood still for %.1f s", late)
            self._be_patient()

    def _be_patient(self) -> None:
        self._judge_from = self._clock.now_ms() + SILENCE_MS
