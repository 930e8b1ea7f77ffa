"""Carry one attempt from the offer to its reported end.

    offered --confirm--> confirmed --prepare--> running --> ended, told to the link
                 \\                  \\            \\
                  drop                cancel       cancel: stop politely, then report `aborted`
                  drop at any time: kill, report nothing
                  give_back at any time: kill, report `setup`, so that the job is queued again; what may not be done
                                         twice and runs already is ended shortly and reported as it ended

Preparation begins with the offer, beside the confirmation; code of the job runs only after Confirmed. A job that runs
nothing by itself, but only what it is asked (a session), begins with its offer: the control plane believes no answer
before the lease is stored (flows/under_offer.py). When `run` returns, nothing of the job runs any more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal, Protocol, cast

from clawplane.domain.batches import ERROR
from clawplane.domain.errors import NotImplementedHere
from clawplane.domain.ids import JobId
from clawplane.domain.leases import Offer, Outcome
from clawplane.link.asking import Asking
from clawplane.runner.jobs.job import Answering, CannotPrepare, Endless, Job, Unrepeatable
from clawplane.runner.shipping import LeaseLost, Shipper

_log = logging.getLogger(__name__)

_End = Literal["drop", "cancel", "give_back"]


class Ends(Protocol):
    """Where the end of an attempt is reported."""

    def end(self, job: JobId, fence: int, outcome: Outcome) -> bool:
        """Report an end; False when the lease is lost."""
        ...


class Attempt:
    """One leased job."""

    def __init__(self, offer: Offer, job: Job, shipper: Shipper, ends: Ends) -> None:
        self.offer = offer
        self.shipper = shipper
        self._job = job
        self._ends = ends
        loop = asyncio.get_running_loop()
        self._confirmed: asyncio.Future[None] = loop.create_future()
        self._ending: _End | None = None
        self._interrupted: asyncio.Future[None] = loop.create_future()
        self._running = False

    def confirmed(self) -> None:
        """The lease is ours."""
        self.shipper.open()
        if not self._confirmed.done():
            self._confirmed.set_result(None)

    def drop(self) -> None:
        """The lease is not ours: kill, and say nothing more."""
        self.shipper.lose()
        self._end("drop")
        self._job.kill()

    def cancel(self) -> None:
        """Somebody asked for the job to be stopped."""
        self._end("cancel")
        if self._running:
            self._job.stop()

    def asked(self, asking: Asking) -> None:
        """Hand a question to the job; raises NotImplementedHere when it answers none."""
        if not isinstance(self._job, Answering):
            raise NotImplementedHere("This job answers no questions.")
        self._job.asked(asking)

    def leave(self) -> None:
        """This runner leaves when what runs has ended: a job that would never end by itself keeps what it can."""
        if isinstance(self._job, Endless):
            self._job.leave()

    def give_back(self) -> None:
        """This runner leaves: kill, and let the job be queued again."""
        self._end("give_back")
        if self._keeps_its_end():
            cast(Unrepeatable, self._job).part()
        else:
            self._job.kill()

    async def run(self) -> None:
        """Do the work and report its end."""
        try:
            outcome = await self._outcome()
        except LeaseLost:
            outcome = None
        except Exception:
            _log.exception("Job %d failed by a defect of the runner", self.offer.job)
            outcome = _defect("exit" if self._keeps_its_end() else "setup")
        if outcome is None or self._ending == "drop":
            self.shipper.lose()
            return
        if self._ending == "give_back" and not (isinstance(self._job, Endless) or self._keeps_its_end()):
            outcome = _setup("The runner was stopped before the attempt ended.")
        self.shipper.flush()
        self._ends.end(self.offer.job, self.offer.fence, outcome)

    async def _outcome(self) -> Outcome | None:
        preparing = asyncio.create_task(self._job.prepare())
        try:
            begins_offered = isinstance(self._job, Endless)
            if not begins_offered and not await self._unless_ended(self._confirmed):
                return self._ended_early()
            try:
                if not await self._unless_ended(preparing):
                    return self._ended_early()
            except CannotPrepare as problem:
                self.shipper.say(f"SYSTEM: {problem}", ERROR)
                return _setup(str(problem))
            self._running = True
            return await self._job.run()
        finally:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
            await self._job.close()

    async def _unless_ended(self, work: asyncio.Future[None]) -> bool:
        """Wait for `work`; False when the attempt was ended from outside first. Raises what the work raises."""
        await asyncio.wait([work, self._interrupted], return_when=asyncio.FIRST_COMPLETED)
        if self._ending is not None:
            return False
        work.result()
        return True

    def _keeps_its_end(self) -> bool:
        return self._running and isinstance(self._job, Unrepeatable)

    def _ended_early(self) -> Outcome | None:
        if self._ending == "drop":
            return None
        return Outcome(succeeded=False, reason="aborted", message="It was aborted before it started.")

    def _end(self, how: _End) -> None:
        # the strongest word counts: a lease that is lost is reported by nobody
        if self._ending != "drop" and (self._ending is None or how != "cancel"):
            self._ending = how
        if not self._interrupted.done():
            self._interrupted.set_result(None)


def _defect(reason: str) -> Outcome:
    message = "The runner failed by a defect; its log has the details."
    return Outcome(succeeded=False, reason=reason, message=message)


def _setup(message: str) -> Outcome:
    return Outcome(succeeded=False, reason="setup", message=message)
