"""Pass words between the link and the attempts, and count slots; the daemon's middle.

`_hear` is called by the link and never waits. Each attempt is one task; an attempt whose work has ended is remembered
until its end is answered, because what it shipped still counts in the room. Nothing here is periodic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.errors import StaleLease, Unavailable
from clawplane.domain.ids import JobId
from clawplane.domain.leases import Finish, JobKind, Offer
from clawplane.domain.runner_asks import REFUSED
from clawplane.link.asking import RUNNER_ITSELF, Asking
from clawplane.link.connection import Link, Waits
from clawplane.link.frames import Cancel, Confirmed, Drop, Ended, Offered, ServerFrame, Stored, Welcome
from clawplane.link.protocol import Identity
from clawplane.runner.attempt import Attempt
from clawplane.runner.jobs.job import Job, UnreadableJob
from clawplane.runner.redact import Redactor
from clawplane.runner.room import Room
from clawplane.runner.settings import RunnerSettings
from clawplane.runner.shipping import LOG_BYTES, Shipper
from clawplane.runner.slots import Slots

_FAREWELL_SECONDS: Final = 2.0
_KILL_SECONDS: Final = 10.0
_BUILD_LOG_BYTES: Final = 8 << 20
_HOST_LOG_BYTES: Final = 32 << 20

_log = logging.getLogger(__name__)

MakeJob = Callable[[Offer, Shipper], Job]
_Key = tuple[JobId, int]


class Runner:
    """One runner on one link.

    `make_job` turns an offer into work, `ended` hears what kind of job has ended, `asked` answers what concerns no job;
    `kept` are ends that an earlier life could not report, `settled` hears of every lease that is over for good.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        identity: Identity,
        make_job: MakeJob,
        *,
        clock: Clock,
        ended: Callable[[JobKind], None] = lambda kind: None,
        asked: Callable[[Asking], None] | None = None,
        waits: Waits | None = None,
        kept: Sequence[Finish] = (),
        settled: Callable[[JobId, int], None] = lambda job, fence: None,
    ) -> None:
        self._settings = settings
        self._make_job = make_job
        self._clock = clock
        self._ended = ended
        self._settled = settled
        self._asked_itself = asked
        self._slots = Slots(identity.slots)
        self._room = Room(settings.buffer_bytes)
        self._attempts: dict[_Key, Attempt] = {}
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._answered = asyncio.Event()
        self._answered.set()
        self._draining = asyncio.Event()
        self._halting = asyncio.Event()
        self.link = Link(
            settings.url, settings.token, identity, self._hear, asked=self._asked, clock=clock, waits=waits
        )
        for finish in kept:
            self.link.restore(finish)

    @property
    def running(self) -> int:
        """Return how many attempts are at work."""
        return len(self._tasks)

    def drain(self) -> None:
        """Take no more offers, and stop when what runs has ended or the drain time is over; again: stop at once."""
        if self._draining.is_set():
            self._halting.set()
            return
        _log.info("Draining: %d attempts at work", self.running)
        self._draining.set()
        self.link.drain()
        for key in self._tasks:
            self._attempts[key].leave()

    def unable(self, capability: str, reason: str) -> None:
        """Offer a capability no more, for a reason in one sentence; "" offers it again."""
        self._slots.unable.pop(capability, None)
        if reason:
            self._slots.unable[capability] = reason
        self.link.unable(self._slots.unable, self._slots.free)

    async def serve(self) -> None:
        """Run until drained or cancelled; raises LinkRefused when the control plane does not want this runner."""
        linking = asyncio.create_task(self.link.run())
        leaving = asyncio.create_task(self._leave())
        try:
            await asyncio.wait([linking, leaving], return_when=asyncio.FIRST_COMPLETED)
            if linking.done():
                linking.result()
        finally:
            leaving.cancel()
            await self._stop()
            linking.cancel()
            await asyncio.gather(leaving, linking, return_exceptions=True)

    async def _leave(self) -> None:
        await self._draining.wait()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._idle, self._halting)]
        try:
            await asyncio.wait(waits, timeout=self._settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _stop(self) -> None:
        """Give back what still runs, and wait until the control plane has answered all ends, but not for long."""
        self._draining.set()
        for key in list(self._tasks):
            self._attempts[key].give_back()
        if self._tasks:
            _log.info("Giving back %d attempts", self.running)
            await asyncio.wait(list(self._tasks.values()), timeout=_KILL_SECONDS)
        if self.link.linked and self._attempts:
            try:
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await self._answered.wait()
            except TimeoutError:
                _log.warning("The control plane has not answered %d ends", len(self._attempts))
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _hear(self, frame: ServerFrame) -> None:
        match frame:
            case Offered():
                self._offered(frame.offer)
            case Confirmed() | Stored() | Cancel():
                attempt = self._attempts.get((frame.job, frame.fence))
                if attempt is not None:
                    self._tell(attempt, frame)
            case Drop():
                _log.info("Job %d is dropped: %s", frame.job, frame.reason)
                self._forget((frame.job, frame.fence), Attempt.drop)
                self._settled(frame.job, frame.fence)
            case Ended():
                self._settled(frame.job, frame.fence)
                self._forget((frame.job, frame.fence), lambda attempt: attempt.shipper.lose())
            case Welcome():
                _log.info("Linked to the control plane at %s", self._settings.url)
            case _:
                pass

    def _asked(self, asking: Asking) -> None:
        """Hand a question to the job that it is about."""
        if asking.job == RUNNER_ITSELF:
            if self._asked_itself is None:
                raise Unavailable("This runner holds no sessions.")
            self._asked_itself(asking)
            return
        attempt = self._attempts.get((asking.job, asking.fence))
        if attempt is None or (asking.job, asking.fence) not in self._tasks:
            raise StaleLease("The session has ended.", hint="Ask again: it wakes if it can.", details=(REFUSED,))
        attempt.asked(asking)

    @staticmethod
    def _tell(attempt: Attempt, frame: Confirmed | Stored | Cancel) -> None:
        match frame:
            case Confirmed():
                attempt.confirmed()
            case Stored():
                attempt.shipper.stored(frame.seq)
            case Cancel():
                attempt.cancel()

    def _offered(self, offer: Offer) -> None:
        if self._draining.is_set():
            self.link.decline(offer, "this runner is leaving")
            return
        if not self._slots.take(offer.kind):
            self.link.decline(offer, "no slot is free")
            self.link.free(self._slots.free)
            return
        self.link.free(self._slots.free, tell=False)
        for key in [key for key in self._attempts if key[0] == offer.job]:
            self._forget(key, Attempt.drop)  # whoever offers it again has taken the earlier lease back
            self._settled(*key)
        key = (offer.job, offer.fence)
        shipper = self._shipper(offer)
        attempt = Attempt(offer, self._job(offer, shipper), shipper, self.link)
        self._attempts[key] = attempt
        self._idle.clear()
        self._answered.clear()
        self.link.confirm(offer)
        self._tasks[key] = asyncio.create_task(self._run(key, attempt))

    def _job(self, offer: Offer, shipper: Shipper) -> Job:
        try:
            return self._make_job(offer, shipper)
        except msgspec.MsgspecError as error:
            return UnreadableJob(f"This runner cannot read the job ({error}); is it of an older release?")

    def _shipper(self, offer: Offer) -> Shipper:
        build = offer.kind is JobKind.BUILD
        log_bytes = {JobKind.BUILD: _BUILD_LOG_BYTES, JobKind.HOST: _HOST_LOG_BYTES}.get(offer.kind, LOG_BYTES)
        return Shipper(
            lambda rows, logs, header: self.link.ship(offer.job, offer.fence, rows, logs, header),
            room=Room(self._settings.attempt_buffer_bytes, self._room),
            clock=self._clock,
            redactor=Redactor([self._settings.token], addresses=build),
            log_bytes=log_bytes,
        )

    async def _run(self, key: _Key, attempt: Attempt) -> None:
        try:
            await attempt.run()
        finally:
            del self._tasks[key]
            self._slots.give(attempt.offer.kind)
            self.link.free(self._slots.free)
            if attempt.shipper.lost:
                self._attempts.pop(key, None)
            self._settle()
            self._ended(attempt.offer.kind)

    def _forget(self, key: _Key, last_word: Callable[[Attempt], None]) -> None:
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        last_word(attempt)
        if key not in self._tasks:
            self._attempts.pop(key, None)
        self._settle()

    def _settle(self) -> None:
        if not self._tasks:
            self._idle.set()
            if not self._attempts:
                self._answered.set()
