"""Any order of submits, offers, confirms, heartbeats, losses, ends, aborts, shipments and crashes keeps the promises.

Hypothesis plays two runners and the clock against a store and, beside it, against a model that is a few dictionaries.
After every step the two must agree: every accepted run has exactly one end, every acknowledged row is there once, no
stale word is accepted, no job has two leases, and fences only rise. A crash is a copy of the files as they lie on the
disk at that moment, with writes in flight, opened by a new store.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clawplane.domain.batches import Batch, ShippedRow
from clawplane.domain.clock import ManualClock
from clawplane.domain.ids import JobId, RunnerId, RunSlug, WorkerSlug
from clawplane.domain.leases import Claim, Finish, JobKind, NewJob, Offer, Outcome, Want
from clawplane.domain.lifecycle import RunStatus
from clawplane.domain.runs import NewRun, Run, RunSystem
from clawplane.store import Store, open_store

OFFER_MS, SILENCE_MS, TIMEOUT_MS = 10_000, 12_000, 20_000
RUNNERS = st.sampled_from(["r1", "r2"])
PICKS = st.integers(0, 999)


@dataclass
class ModelJob:
    """What a job must look like: waiting, offered, leased, or ended."""

    run: str
    place: tuple[int, int]
    max_attempts: int
    state: str = "waiting"
    used: int = 0
    offer: Offer | None = None
    until: int = 0
    confirmed_at: int = 0
    cancelled: bool = False
    stored: int = 0
    rows: list[bytes] = field(default_factory=list)


@dataclass
class ModelRun:
    """What a run must look like, and its ends as they were told."""

    jobs: list[int]
    status: RunStatus = RunStatus.READY
    ends: int = 0


class QueueMachine(RuleBasedStateMachine):
    """The players."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="machine-"))
        self.generation = 0
        self.clock = ManualClock()
        self.store: Store = self.do(self.open())
        self.jobs: dict[int, ModelJob] = {}
        self.runs: dict[str, ModelRun] = {}
        self.seen: dict[str, int] = {}
        self.accepted_ends: set[tuple[int, int]] = set()
        self.offers: list[Offer] = []

    def pick(self, number: int) -> Offer:
        """Return an offer that was once made: more often than not one that is open or leased."""
        live = [job.offer for job in self.jobs.values() if job.offer is not None]
        choice = live * 2 + self.offers[-6:]
        return choice[number % len(choice)]

    def do(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    @property
    def now(self) -> int:
        return self.clock.now_ms()

    async def open(self) -> Store:
        return await open_store(self.root / str(self.generation), clock=self.clock, idle_seconds=3600)

    def teardown(self) -> None:
        self.do(self.store.close())
        self.runner.close()
        shutil.rmtree(self.root)

    # rules

    @initialize(subtasks=st.integers(1, 3))
    def start_the_first_run(self, subtasks: int) -> None:
        self.start_run(subtasks, 2)

    @precondition(lambda self: len(self.runs) < 8)
    @rule(subtasks=st.integers(1, 3), max_attempts=st.integers(1, 2))
    def start_run(self, subtasks: int, max_attempts: int) -> None:
        slug = RunSlug(f"run-{len(self.runs)}")
        jobs = tuple(
            NewJob(
                id=JobId(len(self.jobs) + number + 1),
                kind=JobKind.SUBTASK,
                subject=slug,
                caps="workers",
                ready_at=self.now,
                spec=b"",
                timeout_ms=TIMEOUT_MS,
                max_attempts=max_attempts,
            )
            for number in range(subtasks)
        )
        run = Run(
            slug=slug,
            worker=WorkerSlug("w"),
            worker_title="w",
            version="v1",
            owner="ann",
            status=RunStatus.READY,
            input=b"{}",
            system=RunSystem(),
            subtask_count=subtasks,
            created_at=self.now,
        )
        self.do(self.store.runs.start(NewRun(run=run, jobs=jobs), max_running=99))
        self.runs[slug] = ModelRun([job.id for job in jobs])
        for job in jobs:
            self.jobs[job.id] = ModelJob(slug, (self.now, job.id), max_attempts)

    @rule(runner=RUNNERS, count=st.integers(1, 5))
    def offer(self, runner: str, count: int) -> None:
        wants = [Want(runner=RunnerId(runner), caps="workers", count=count)]
        offers = self.do(self.store.queue.offer(wants, now=self.now, offer_ms=OFFER_MS))
        waiting = sorted((job.place, number) for number, job in self.jobs.items() if job.state == "waiting")
        assert [offer.job for offer in offers] == [number for _, number in waiting[:count]]
        for offer in offers:
            job = self.jobs[offer.job]
            assert all(offer.fence > earlier.fence for earlier in self.offers)
            assert offer.attempt == job.used + 1
            self.offers.append(offer)
            job.state, job.offer, job.until = "offered", offer, self.now + OFFER_MS

    @rule(runner=RUNNERS, count=st.integers(1, 5))
    def offer_and_confirm(self, runner: str, count: int) -> None:
        before = len(self.offers)
        self.offer(runner, count)
        for offer in self.offers[before:]:
            self.confirm_offer(offer)

    @precondition(lambda self: self.offers)
    @rule(pick=PICKS)
    def confirm(self, pick: int) -> None:
        self.confirm_offer(self.pick(pick))

    def confirm_offer(self, offer: Offer) -> None:
        job = self.jobs[offer.job]
        known = job.offer == offer
        expected = known and (job.state == "leased" or (job.state == "offered" and self.now < job.until))
        assert self.do(self.store.queue.confirm(claim(offer), offer.runner, now=self.now)) is expected
        if expected and job.state == "offered":
            job.state, job.confirmed_at, job.rows, job.stored = "leased", self.now, [], 0
            if self.runs[job.run].status is RunStatus.READY:
                self.runs[job.run].status = RunStatus.RUNNING

    @precondition(lambda self: self.offers)
    @rule(pick=PICKS)
    def decline(self, pick: int) -> None:
        offer = self.pick(pick)
        self.do(self.store.queue.decline(claim(offer), offer.runner, now=self.now))
        job = self.jobs[offer.job]
        if job.offer == offer and job.state == "offered":
            job.state, job.offer = "waiting", None

    @precondition(lambda self: self.offers)
    @rule(runner=RUNNERS, picks=st.lists(PICKS, max_size=3))
    def heartbeat(self, runner: str, picks: list[int]) -> None:
        held = [self.pick(pick) for pick in picks]
        words = [(offer.job, offer.fence) for offer in held]
        answer = self.do(self.store.queue.heartbeat(RunnerId(runner), words, now=self.now))
        self.seen[runner] = self.now
        mine = [offer for offer in held if self.jobs[offer.job].offer == offer and offer.runner == runner]
        assert Counter(answer.lost) == Counter(words) - Counter((offer.job, offer.fence) for offer in mine)
        assert [cancel[:2] for cancel in answer.cancels] == [
            (offer.job, offer.fence) for offer in mine if self.jobs[offer.job].cancelled
        ]

    @rule(seconds=st.sampled_from([1, 5, 9, 12]))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        self.take_back()

    @rule()
    def let_runners_fall_silent(self) -> None:
        self.clock.advance(SILENCE_MS / 1000)
        self.take_back()

    @precondition(lambda self: self.offers)
    @rule(runner=RUNNERS, rows=st.integers(1, 2))
    def replace_silent_runners_who_then_come_back(self, runner: str, rows: int) -> None:
        self.ship_from_everywhere(rows)
        self.let_runners_fall_silent()
        self.offer_and_confirm(runner, 5)
        self.ship_from_everywhere(rows)

    def take_back(self) -> None:
        due = self.do(self.store.queue.next_expiry(silence_ms=SILENCE_MS))
        expired = self.do(self.store.queue.expire(now=self.now, silence_ms=SILENCE_MS))
        lost = {number for number, job in self.jobs.items() if self.is_lost(job)}
        assert {entry.job for entry in expired.lost} == lost
        assert bool(lost) == (due is not None and due <= self.now)
        for entry in expired.lost:
            job = self.jobs[entry.job]
            leased = job.state == "leased"
            job.used += leased
            job.offer = None
            requeued = not job.cancelled and (not leased or job.used < job.max_attempts)
            assert entry.requeued is requeued
            job.state = "waiting" if requeued else "aborted" if job.cancelled else "failed"
        self.note_ends([end.slug for end in expired.runs])

    def is_lost(self, job: ModelJob) -> bool:
        if job.state == "offered":
            return self.now >= job.until
        if job.state != "leased" or job.offer is None:
            return False
        sign = max(job.confirmed_at, self.seen.get(job.offer.runner, 0))
        return self.now >= job.confirmed_at + TIMEOUT_MS or self.now - sign >= SILENCE_MS

    @precondition(lambda self: self.offers)
    @rule(pick=PICKS, succeeded=st.booleans(), setup=st.booleans())
    def finish(self, pick: int, succeeded: bool, setup: bool) -> None:
        self.finish_offer(self.pick(pick), succeeded, setup)

    @precondition(lambda self: self.offers)
    @rule(pattern=st.lists(st.booleans(), min_size=1, max_size=3))
    def finish_what_runs(self, pattern: list[bool]) -> None:
        self.ship_from_everywhere(1)
        leased = [job.offer for job in self.jobs.values() if job.state == "leased" and job.offer is not None]
        for number, offer in enumerate(leased):
            self.finish_offer(offer, pattern[number % len(pattern)], setup=False)

    def finish_offer(self, offer: Offer, succeeded: bool, setup: bool) -> None:
        outcome = Outcome(succeeded=succeeded, reason="setup" if setup else "exit")
        answer = self.do(self.store.queue.finish(Finish(claim=claim(offer), outcome=outcome), now=self.now))
        job = self.jobs[offer.job]
        expected = job.offer == offer and job.state == "leased"
        assert answer.accepted is expected
        assert answer.repeated is ((offer.job, offer.fence) in self.accepted_ends)
        if expected:
            self.accepted_ends.add((offer.job, offer.fence))
            job.used, job.offer = job.used + 1, None
            again = setup and not succeeded and not job.cancelled and job.used < job.max_attempts
            job.state = "waiting" if again else "aborted" if job.cancelled else "succeeded" if succeeded else "failed"
        self.note_ends([answer.run.slug] if answer.run else [])

    def note_ends(self, told: list[str]) -> None:
        """Check that exactly the runs that have just ended were told."""
        ended = []
        for slug, run in self.runs.items():
            states = {self.jobs[number].state for number in run.jobs}
            if run.ends == 0 and not states & {"waiting", "offered", "leased"}:
                run.ends = 1
                ended.append(slug)
                if run.status is not RunStatus.ABORTING:
                    run.status = RunStatus.SUCCEEDED if "succeeded" in states else RunStatus.FAILED
        assert sorted(told) == sorted(ended)

    @precondition(lambda self: len(self.runs) > 1)
    @rule(pick=PICKS)
    def abort(self, pick: int) -> None:
        slug = sorted(self.runs)[pick % len(self.runs)]
        run = self.runs[slug]
        leases = self.do(self.store.runs.abort(RunSlug(slug), now=self.now))
        if run.status.ended:
            assert leases is None
            return
        run.status = RunStatus.ABORTING
        jobs = {number: self.jobs[number] for number in run.jobs}
        assert {lease.job for lease in leases} == {n for n, job in jobs.items() if job.state in ("offered", "leased")}
        for job in jobs.values():
            if job.state == "leased":
                job.cancelled = True
            elif job.state in ("waiting", "offered"):
                job.state, job.offer = "aborted", None
        if not any(job.state == "leased" for job in jobs.values()):
            run.ends = 1

    @precondition(lambda self: self.offers)
    @rule(rows=st.integers(1, 3))
    def ship_from_everywhere(self, rows: int) -> None:
        for offer in self.offers[-6:]:
            self.ship_batch(offer, self.jobs[offer.job].stored + 1, rows)

    @precondition(lambda self: self.offers)
    @rule(pick=PICKS, step=st.sampled_from([-1, 0, 2]), rows=st.integers(0, 3))
    def ship_again_or_too_early(self, pick: int, step: int, rows: int) -> None:
        offer = self.pick(pick)
        self.ship_batch(offer, max(1, self.jobs[offer.job].stored + step), rows)

    def ship_batch(self, offer: Offer, seq: int, rows: int) -> None:
        answer = self.do(self.store.runs.append(batch(offer, seq, rows)))
        self.note_shipment(offer, seq, rows, answer)

    def note_shipment(self, offer: Offer, seq: int, rows: int, answer: Any) -> None:
        job = self.jobs[offer.job]
        valid = job.offer == offer and job.state == "leased"
        assert answer.stale is not valid
        if valid:
            if seq == job.stored + 1:
                job.stored = seq
                job.rows += [row.body for row in batch(offer, seq, rows).rows]
            assert answer.stored_up_to == job.stored

    @precondition(lambda self: self.offers)
    @rule(picks=st.lists(PICKS, max_size=2))
    def crash_and_reopen(self, picks: list[int]) -> None:
        """Copy the files while shipments are in flight, open the copy, and send the shipments again."""
        offers = list({offer.job: offer for offer in map(self.pick, picks)}.values())
        in_flight = [batch(offer, self.jobs[offer.job].stored + 1, 2) for offer in offers]
        self.do(self.crash(in_flight))
        for offer, shipment in zip(offers, in_flight, strict=True):
            answer = self.do(self.store.runs.append(shipment))
            self.note_shipment(offer, shipment.seq, 2, answer)

    async def crash(self, in_flight: list[Batch]) -> None:
        sending = [asyncio.create_task(self.store.runs.append(shipment)) for shipment in in_flight]
        await asyncio.sleep(0)
        old = self.root / str(self.generation)
        self.generation += 1
        new = self.root / str(self.generation)
        new.mkdir()
        for name in ("clawplane.db-wal", "clawplane.db"):  # nothing moves from the log to the file meanwhile
            if (old / name).exists():
                shutil.copyfile(old / name, new / name)
        await asyncio.gather(*sending)
        await self.store.close()
        shutil.rmtree(old)
        self.store = await self.open()

    # what must hold after every step

    @invariant()
    def leases_are_those_of_the_model(self) -> None:
        leases = self.do(self.store.queue.leases())
        assert {
            lease.job: (lease.fence, lease.runner, lease.confirmed, lease.cancel is not None) for lease in leases
        } == {
            number: (job.offer.fence, job.offer.runner, job.state == "leased", job.cancelled)
            for number, job in self.jobs.items()
            if job.offer is not None
        }
        assert len(leases) == len({lease.job for lease in leases})

    @invariant()
    def depth_is_that_of_the_model(self) -> None:
        depth = msgspec.structs.asdict(self.do(self.store.queue.depth()))
        states = Counter(job.state for job in self.jobs.values())
        assert {name: counts.get("workers", 0) for name, counts in depth.items()} == {
            "ready": states["waiting"],
            "offered": states["offered"],
            "leased": states["leased"],
        }

    @invariant()
    def runs_and_rows_are_those_of_the_model(self) -> None:
        for slug, model in self.runs.items():
            run = self.do(self.store.runs.find(slug))
            assert run.status is model.status
            assert (run.finished_at is not None) is bool(model.ends)
            jobs = [self.jobs[number] for number in model.jobs]
            hide = model.status is RunStatus.SUCCEEDED
            expected = [row for job in jobs if not (hide and job.state == "failed") for row in job.rows]
            count, rows = self.do(self.store.runs.rows(RunSlug(slug), limit=10_000, offset=0))
            assert Counter(row.body for row in rows) == Counter(expected)
            assert count == run.result_count == len(expected)

    @invariant()
    def every_run_has_at_most_one_end_in_the_log(self) -> None:
        events = self.do(self.store.events.after(0, subject=None, limit=1000))
        ends = Counter(
            event.subject for event in events if event.kind in ("run.succeeded", "run.failed", "run.aborting")
        )
        assert ends == Counter(slug for slug, run in self.runs.items() if run.status.ended)


def claim(offer: Offer) -> Claim:
    return Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)


def batch(offer: Offer, seq: int, rows: int) -> Batch:
    bodies = (f'"{offer.job}/{offer.fence}/{seq}/{number}"'.encode() for number in range(rows))
    return Batch(job=offer.job, fence=offer.fence, seq=seq, rows=tuple(ShippedRow(body) for body in bodies))


QueueMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    database=None,
    phases=(Phase.generate,),  # add Phase.shrink to look into a failure; it takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestQueueMachine = QueueMachine.TestCase
