"""Offer ready jobs to the runners that are linked: one claim statement a tick, however many runners there are.

A tick comes when jobs became ready or a runner's free slots changed. A job is only sent after its offer is stored; a
slot that an offer is being stored for is promised to no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from clawplane.domain.clock import Clock
from clawplane.domain.errors import StoreError
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import OFFER_MS, Claim, Offer, Want
from clawplane.domain.ports import Queue
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels
from clawplane.flows.offered_jobs import OfferedJob, OfferedJobs
from clawplane.flows.runner_links import RunnerLink, best_seat

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0


class Offering:
    """The loop that offers. `due` hears when an offer's time is over, `placed` which job of which subject was sent."""

    def __init__(
        self,
        queue: Queue,
        links: Mapping[RunnerId, RunnerLink],
        jobs: OfferedJobs,
        *,
        wakeups: Wakeups,
        clock: Clock,
        due: Callable[[int], None],
        placed: Callable[[str, JobId], None],
    ) -> None:
        self._queue = queue
        self._links = links
        self._jobs = jobs
        self._wakeups = wakeups
        self._clock = clock
        self._due = due
        self._placed = placed
        self._tick = asyncio.Event()

    def soon(self) -> None:
        """Offer with the next tick."""
        self._tick.set()

    async def now(self, caps: str) -> None:
        """Offer the first job that waits for `caps` without waiting for a tick, if a slot is free.

        The offer is stored with whatever is written in the same turn of the event loop: a job that is submitted beside
        this call is durable and offered by one commit.
        """
        now = self._clock.now_ms()
        seat = best_seat(self._links.values(), caps, now)
        if seat is not None:
            await self._offer([seat], now)

    async def listen(self) -> None:
        """Turn the queue's notifications into ticks, until cancelled."""
        wakeup = self._wakeups.listen(channels.READY)
        try:
            while True:
                await wakeup.wait()
                self._tick.set()
        finally:
            wakeup.close()

    async def run(self) -> None:
        """Offer at every tick, until cancelled."""
        while True:
            await self._tick.wait()
            self._tick.clear()
            now = self._clock.now_ms()
            wants = [want for link in self._links.values() for want in link.wants(now)]
            if not wants:
                continue
            try:
                await self._offer(wants, now)
            except StoreError as error:
                _log.warning("offering waits: %s", error.message)
                self._tick.set()
                await asyncio.sleep(_RETRY_SECONDS)

    async def give_back(self, job: OfferedJob, runner: RunnerId, now: int) -> None:
        """Return an offer to the queue that its runner will not take."""
        claim = job.claim
        if claim is not None:
            self._jobs.forget_offer(claim.job, claim.fence)
            await self._queue.decline(claim, runner, now=now)
            self._wakeups.notify(channels.READY)

    async def _offer(self, wants: Sequence[Want], now: int) -> None:
        """Offer jobs for `wants`; two such offers under way never promise a slot twice."""
        promised = [(link, want) for want in wants if (link := self._links.get(want.runner)) is not None]
        for link, want in promised:
            link.reserve([want])
        try:
            for offer in await self._queue.offer(wants, now=now, offer_ms=OFFER_MS):
                await self._send(offer)
        finally:
            for link, want in promised:
                link.release([want])

    async def _send(self, offer: Offer) -> None:
        now = self._clock.now_ms()
        job = OfferedJob(offer, timeout_ms=offer.timeout_ms, offered_at=now)
        job.claim = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
        self._jobs.put(offer.job, job)
        self._due(now + OFFER_MS)
        link = self._links.get(offer.runner)
        if link is None or link.draining:  # it left while the offer was being stored
            await self.give_back(job, offer.runner, now)
            return
        link.sent(offer.job, offer.kind)
        link.connection.offer(offer, OFFER_MS)
        self._placed(offer.subject, offer.job)
