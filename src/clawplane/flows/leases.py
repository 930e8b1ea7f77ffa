"""Give jobs to runners and hear what becomes of them: the control plane's half of the lease (see docs/flows/lease.md).

Who runs here:

* `Offering` (offering.py) offers ready jobs to whoever has free slots, once a tick.
* `Expiry.run` (expiry.py) ends what time has ended.
* Everything else is called by the link's server end, one call per frame (`domain.ports.Dispatch`).

Rules that never break: a job is only sent after its offer is stored; a word about a job is only believed when its fence
is the lease's own, which the store decides; a runner whose link was replaced is not spoken for by the old link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from clawplane.domain.batches import Batch
from clawplane.domain.clock import Clock
from clawplane.domain.host_ports import HostTasks
from clawplane.domain.ids import JobId, RunnerId, RunSlug
from clawplane.domain.leases import (
    SILENCE_MS,
    Claim,
    Finish,
    JobKind,
    LeaseView,
    LostLease,
    Outcome,
    RunnerRecord,
)
from clawplane.domain.ports import (
    AppendResult,
    Expired,
    FinishResult,
    HeartbeatResult,
    Queue,
    RunnerConnection,
    Runs,
)
from clawplane.domain.session_rules import LOST
from clawplane.domain.sessions import LiveState
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels, closing, runner_links, traffic
from clawplane.flows.environments import Environments
from clawplane.flows.expiry import FOREVER_MS, Expiry
from clawplane.flows.host_words import HostWords, NobodyListens
from clawplane.flows.offered_jobs import OfferedJob, OfferedJobs
from clawplane.flows.offering import Offering
from clawplane.flows.runner_links import Reached, RunnerLink, record_of, why_not_ready
from clawplane.flows.session_watch import NobodyWatches, SessionWatch

_log = logging.getLogger(__name__)


class Leases:
    """Offer, confirm, hear, expire. Implements `domain.ports.Dispatch`."""

    def __init__(
        self,
        queue: Queue,
        runs: Runs,
        environments: Environments,
        host_tasks: HostTasks,
        *,
        wakeups: Wakeups,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._host_tasks = host_tasks
        self._runs = runs
        self._environments = environments
        self._wakeups = wakeups
        self._clock = clock
        self._links: dict[RunnerId, RunnerLink] = {}
        self._jobs = OfferedJobs()
        self._watch: SessionWatch = NobodyWatches()
        self._words: HostWords = NobodyListens()
        self._expiry = Expiry(queue, clock, self._expired)
        self._offering = Offering(
            queue,
            self._links,
            self._jobs,
            wakeups=wakeups,
            clock=clock,
            due=self._expiry.not_later_than,
            placed=self._placed,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    # start and stop

    async def start(self) -> None:
        """Start the loops; what is left from an earlier process of this store is taken over."""
        self._offering.soon()
        for loop in (self._offering.run(), self._offering.listen(), self._expiry.run()):
            self._tasks.append(asyncio.create_task(loop))

    async def close(self) -> None:
        """Stop the loops, then end every link; jobs go on where they run. Safe to call twice, or without a start."""
        self._closed = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            link.connection.close("The control plane is shutting down.")

    # what the edge asks

    def readiness(self) -> str | None:
        """Return None when a runner can take runs, else the reason why not in one sentence."""
        if self._closed:
            return "The control plane is shutting down."
        return why_not_ready(self._links.values(), self._tasks)

    async def runners(self) -> list[RunnerRecord]:
        """Return every runner ever heard of, newest first, and whether it is there."""
        return await runner_links.known_runners(self._queue, self._clock.now_ms())

    def not_later_than(self, at: int) -> None:
        """Look at what time has ended at `at` (milliseconds) at the latest: something was stored that ends then."""
        self._expiry.not_later_than(at)

    def listen(self, words: HostWords) -> None:
        """Let `words` hear what runners say of host tasks."""
        self._words = words

    def watch(self, watch: SessionWatch) -> None:
        """Let `watch` hear what becomes of sessions' jobs."""
        self._watch = watch

    def reach(self, job: JobId) -> Reached | None:
        """Return how to ask the runner that was offered or has this job; None when nobody has it."""
        known = self._jobs.get(job)
        link = None if known is None else self._links.get(known.runner)
        return None if known is None or link is None else Reached(link.connection, known.fence, known.confirmation)

    def connection_to(self, runner: RunnerId) -> RunnerConnection | None:
        """Return the link of a runner that is connected."""
        link = self._links.get(runner)
        return None if link is None else link.connection

    def refusal(self, caps: str) -> str | None:
        """Return None when a runner offers a capability, else why none does; "" when none says why."""
        return runner_links.why_unable(self._links.values(), caps)

    async def offer_now(self, caps: str) -> None:
        """Offer the first job that waits for `caps` at once, by the commit that stores it; see Offering.now."""
        await self._offering.now(caps)

    def cancel(self, leases: Sequence[LeaseView], reason: str) -> None:
        """Ask the runners that are connected to stop; the others hear it with their next sign of life."""
        for lease in leases:
            if not lease.confirmed:
                self._jobs.forget_offer(lease.job, lease.fence)
            link = self._links.get(lease.runner)
            if link is not None:
                link.unanswered.pop(lease.job, None)
                link.connection.cancel(lease.job, lease.fence, reason)

    # Dispatch: links

    async def connected(
        self, runner: RunnerRecord, held: Sequence[tuple[JobId, int]], connection: RunnerConnection
    ) -> list[tuple[JobId, int, int]]:
        """Greet a runner; a link of the same runner that is still open is replaced."""
        previous = self._links.get(runner.id)
        self._links[runner.id] = RunnerLink(runner, connection, self._clock.now_ms())
        if previous is not None:
            previous.connection.close("The same runner has connected again.")
        now = self._clock.now_ms()
        await self._queue.upsert_runner(record_of(runner, connected=True, draining=False, now=now))
        views = {(view.job, view.fence): view for view in await self._queue.leases(runner.id)}
        held_set = set(held)
        for key, view in views.items():
            if key not in held_set:
                await self._take_back(view, now)
        kept = []
        for key in held:
            view_held = views.get(key)
            if view_held is not None:
                self._remember(view_held, now)
                stored = await self._runs.append(Batch(job=key[0], fence=key[1], seq=0))
                if not stored.stale:
                    kept.append((*key, stored.stored_up_to))
        self._watch.linked(runner.id)
        result = await self._queue.heartbeat(runner.id, held, now=now)
        asyncio.get_running_loop().call_soon(self._tell, runner.id, connection, result)
        return kept

    async def disconnected(self, runner: RunnerId, connection: RunnerConnection) -> None:
        """Note that a link closed; what it was only offered is given back at once."""
        link = self._links.get(runner)
        if link is None or link.connection is not connection:
            return
        del self._links[runner]
        now = self._clock.now_ms()
        for job in self._jobs.offered_to(runner):
            await self._offering.give_back(job, runner, now)
        await self._queue.upsert_runner(record_of(link.record, connected=False, draining=link.draining, now=now))

    async def draining(self, runner: RunnerId) -> None:
        """Offer this runner nothing more."""
        link = self._links.get(runner)
        if link is not None:
            link.draining = True
            now = self._clock.now_ms()
            await self._queue.upsert_runner(record_of(link.record, connected=True, draining=True, now=now))

    async def heartbeat(self, runner: RunnerId, held: Sequence[tuple[JobId, int]], free: dict[str, int]) -> None:
        """Note a sign of life; drops and cancels go out on the link."""
        link = self._links.get(runner)
        if link is None:
            return
        await self.free(runner, free)  # before anything is waited for: later words about slots must not be undone
        result = await self._queue.heartbeat(runner, held, now=self._clock.now_ms())
        self._tell(runner, link.connection, result)

    async def free(self, runner: RunnerId, free: dict[str, int], unable: dict[str, str] | None = None) -> None:
        """Note free slots by capability, and why announced capabilities are not offered."""
        link = self._links.get(runner)
        if link is not None:
            link.said_free(free, self._clock.now_ms(), unable)
            if link.wants(link.heard_at):
                self._offering.soon()

    # Dispatch: one job

    async def confirm(self, runner: RunnerId, claim: Claim) -> bool:
        """Turn an offer into a lease; False when it is not this runner's any more."""
        now = self._clock.now_ms()
        self._answered(runner, claim.job)
        if not await self._queue.confirm(claim, runner, now=now):
            self._jobs.forget_offer(claim.job, claim.fence)
            return False
        job = await self._job(claim.job, runner)
        if job is not None:
            job.settle(confirmed=True)
            self._expiry.not_later_than(now + job.timeout_ms)
            self._wake_subject(job)
            self._watch.confirmed(job.subject, claim.job, runner)
        self._expiry.not_later_than(now + SILENCE_MS)
        return True

    async def decline(self, runner: RunnerId, claim: Claim, reason: str) -> None:
        """Give an offer back; the slot it was meant for counts as taken until the runner speaks of its slots again."""
        self._answered(runner, claim.job)
        _log.info("runner %s declined job %d: %s", runner, claim.job, reason)
        await self._queue.decline(claim, runner, now=self._clock.now_ms())
        self._jobs.forget_offer(claim.job, claim.fence)
        self._wakeups.notify(channels.READY)

    async def ship(self, runner: RunnerId, batch: Batch) -> AppendResult:
        """Store a batch and wake who follows the log or the rows.

        A batch carries no nonce, and fences can be counted: only the runner that holds the lease is listened to.
        """
        job = await self._job(batch.job, runner)
        if job is None:
            return AppendResult(stored_up_to=0, stale=True)
        result = await self._runs.append(batch)
        if not result.stale:
            self._wakeups.notify(channels.log(job.subject))
            if job.kind is JobKind.HOST:
                self._words.said(job.subject, batch.logs)
        return result

    async def end(self, runner: RunnerId, finish: Finish) -> FinishResult:
        """Store an end, not sooner than a client could have aborted its run."""
        job = await self._job(finish.claim.job, runner)
        if job is not None and job.kind is JobKind.BUILD:
            result = await self._environments.finish(job.subject, finish)
        else:
            if job is not None and job.kind is JobKind.SUBTASK:
                await closing.until_visible(self._runs, self._clock, job.subject, offered_at=job.offered_at)
            elif job is not None:
                await self._watch.ending(job.subject)
            result = await self._queue.finish(finish, now=self._clock.now_ms())
        if not result.accepted:
            if not result.repeated and finish.outcome.result:
                await self._late(runner, finish)
            return result
        self._jobs.forget(finish.claim.job)
        if result.run is not None:
            await closing.announce(self._runs, self._wakeups, result.run, self._clock.now_ms())
        elif job is not None:
            self._wake_subject(job)
            self._watch.ended(job.subject, finish.claim.job)
        if finish.outcome.reason == "setup" or (job is not None and job.kind is JobKind.HOST):
            self._wakeups.notify(channels.READY)  # it waits again, or the next of its conversation does
        if job is not None and job.kind is JobKind.SUBTASK and result.run is None:
            await self._bound_traffic(RunSlug(job.subject), finish.outcome)
        return result

    async def _late(self, runner: RunnerId, finish: Finish) -> None:
        """Hear the end of a host task whose lease is gone: what was done on somebody's machine was done."""
        late = await self._host_tasks.late(finish.claim, runner, finish.outcome.result, now=self._clock.now_ms())
        if late is not None and late.task is not None:
            self.cancel(late.leases, "The task was reported by the runner that had it before.")
            for channel in (*channels.of_job(JobKind.HOST, late.task), channels.READY):
                self._wakeups.notify(channel)

    async def _bound_traffic(self, slug: RunSlug, outcome: Outcome) -> None:
        """Stop the rest of a run that has used up its traffic."""
        now = self._clock.now_ms()
        left = await traffic.stop_beyond_limit(self._runs, self._queue, self._wakeups, slug, outcome, now=now)
        self.cancel(left, traffic.USED_UP)

    async def noted(self, runner: RunnerId, job: JobId, fence: int, state: LiveState) -> None:
        """Hear how a session stands, from the runner that has it."""
        known = await self._job(job, runner)
        if known is not None and known.kind is JobKind.SESSION and known.fence == fence:
            self._watch.noted(known.subject, job, state)

    # pieces

    async def _expired(self, expired: Expired) -> None:
        for lost in expired.lost:
            self._lose(lost)
        for run in expired.runs:
            await closing.announce(self._runs, self._wakeups, run, self._clock.now_ms())
        self._wakeups.notify(channels.READY)  # lost jobs wait again, and so do those whose delay is over

    def _placed(self, subject: str, job: JobId) -> None:
        self._watch.placed(subject, job)  # whoever watches then: `watch` may come later than the first offer

    def _answered(self, runner: RunnerId, job: JobId) -> None:
        link = self._links.get(runner)
        if link is not None:
            link.unanswered.pop(job, None)

    async def _take_back(self, view: LeaseView, now: int) -> None:
        """Free a lease that its runner, just connected, does not know of: its process is gone, or never began."""
        claim = Claim(job=view.job, fence=view.fence, nonce=view.nonce)
        self._jobs.forget(view.job)
        if not view.confirmed:
            await self._queue.decline(claim, view.runner, now=now)
        elif view.kind is JobKind.HOST:  # what ran on somebody's machine is not begun again unless its policy says so
            await self._host_tasks.lose([(view.job, view.fence)], now=now)
            self._wakeups.notify(channels.host_task(view.subject))
        else:
            await self._watch.ending(view.subject)
            reason = LOST if view.kind is JobKind.SESSION else "setup"
            outcome = Outcome(succeeded=False, reason=reason, message="The runner restarted and lost this attempt.")
            result = await self._queue.finish(Finish(claim=claim, outcome=outcome), now=now)
            if result.run is not None:
                await closing.announce(self._runs, self._wakeups, result.run, now)
            self._watch.ended(view.subject, view.job)
        self._wakeups.notify(channels.READY)

    def _lose(self, lost: LostLease) -> None:
        job = self._jobs.forget(lost.job)
        link = self._links.get(lost.runner)
        if link is not None:
            link.unanswered.pop(lost.job, None)
            link.connection.drop(lost.job, lost.fence, f"The lease is over: {lost.end}.")
        if job is not None:
            self._wake_subject(job)
        self._watch.ended(lost.subject, lost.job)
        _log.info("job %d of %s was taken back from runner %s: %s", lost.job, lost.subject, lost.runner, lost.end)

    def _tell(self, runner: RunnerId, connection: RunnerConnection, result: HeartbeatResult) -> None:
        link = self._links.get(runner)
        if link is None or link.connection is not connection:
            return
        link.tell(result)

    async def _job(self, job_id: JobId, runner: RunnerId) -> OfferedJob | None:
        """Return what is known of a job that `runner` has; after a restart of this process the store knows it."""
        known = self._jobs.get(job_id)
        if known is not None and known.runner == runner:
            return known
        for view in await self._queue.leases(runner):
            if view.job == job_id:
                return self._remember(view, 0)
        return None

    def _remember(self, view: LeaseView, offered_at: int) -> OfferedJob:
        timeout_ms = 0 if view.deadline_at is None else max(0, view.deadline_at - self._clock.now_ms())
        job = OfferedJob(view, timeout_ms=timeout_ms or FOREVER_MS, offered_at=offered_at)
        if not view.confirmed:
            job.claim = Claim(job=view.job, fence=view.fence, nonce=view.nonce)
        self._jobs.put(view.job, job)
        self._watch.placed(view.subject, view.job)
        return job

    def _wake_subject(self, job: OfferedJob) -> None:
        for channel in channels.of_job(job.kind, job.subject):
            self._wakeups.notify(channel)
