"""Any order of submits, claims, reports, cancels, fetches, losses, starts and crashes keeps the promises of host tasks.

Hypothesis plays pollers, a linked runner, clients and the clock against a store and against a model beside it. After
every step: each task waits, runs, or has exactly one terminal record and one result; of a conversation only the oldest
unfinished task is out; what is claimed is what the model says is first; a result is handed out once; the counters are
those of the model. A crash is a copy of the files as they lie on the disk, with reports in flight.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clawplane.domain.clock import ManualClock
from clawplane.domain.host_ports import Poll, Retention
from clawplane.domain.host_tasks import (
    GROUPS,
    Approval,
    Command,
    NewTask,
    OnLoss,
    Prompt,
    Reach,
    TaskId,
    TaskReport,
    TaskType,
    order_of,
)
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, Finish, Offer, Outcome, Want
from clawplane.store import Store, open_store

OFFER_MS, SILENCE_MS, HOST_SILENCE_MS, TIMEOUT_MS = 10_000, 12_000, 90_000, 150_000
KEEP = Retention(task_ms=240_000, result_ms=300_000, grace_ms=60_000, session_ms=300_000)
PICKS = st.integers(0, 999)
POLLER, LINKED = RunnerId("poll:anonymous"), RunnerId("mac")
REACH = Reach(groups=GROUPS, runner="mac")


@dataclass
class ModelTask:
    """What a task must look like: waiting, offered, running or ended; taken once its result was fetched."""

    id: TaskId
    job: int
    session: str | None
    place: tuple[int, int]
    due: int
    on_loss: OnLoss
    approval: Approval
    aging: int
    state: str = "waiting"
    used: int = 0
    fence: int = 0
    offer: Offer | None = None
    since: int = 0
    cancelled: bool = False
    told: TaskReport | None = None
    status: str = "pending"
    ended_at: int = 0
    taken_at: int | None = None


class HostMachine(RuleBasedStateMachine):
    """The players."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="machine-"))
        self.generation = 0
        self.clock = ManualClock()
        self.store: Store = self.do(self.open())
        self.tasks: dict[str, ModelTask] = {}
        self.reconciled: Counter[str] = Counter()
        self.ended: dict[str, str] = {}
        self.started: list[tuple[str, int]] = []
        self.seen = 0
        self.fences = 0
        self.made = 0

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

    def pick(self, number: int, *states: str) -> ModelTask | None:
        choice = [task for task in self.tasks.values() if not states or task.state in states]
        return choice[number % len(choice)] if choice else None

    # the model's own rules

    def is_head(self, task: ModelTask) -> bool:
        older = (other for other in self.tasks.values() if other.session == task.session and other.job < task.job)
        return task.session is None or all(other.state == "ended" for other in older)

    def in_queue(self) -> list[ModelTask]:
        waiting = (task for task in self.tasks.values() if task.state == "waiting")
        return [task for task in waiting if self.is_head(task) and task.approval is not Approval.WAITING]

    def ready(self) -> list[ModelTask]:
        return sorted((task for task in self.in_queue() if task.due <= self.now), key=lambda task: task.place)

    def run(self, task: ModelTask) -> None:
        task.state, task.status, task.since = "running", "running", self.now
        if task.session is not None:
            self.started.append((task.session, task.job))

    def end(self, task: ModelTask, status: str, told: TaskReport | None = None) -> None:
        task.state, task.status, task.told, task.ended_at, task.cancelled = "ended", status, told, self.now, False
        assert task.id not in self.ended
        self.ended[task.id] = status

    def is_silent(self, task: ModelTask) -> bool:
        patient = task.offer is None or task.on_loss is OnLoss.HOLD
        return not patient and self.now - max(task.since, self.seen) >= HOST_SILENCE_MS

    def requeue(self, task: ModelTask) -> None:
        task.state, task.status, task.offer = "waiting", "pending", None
        task.used += 1
        task.aging = self.now

    def lose(self, task: ModelTask) -> None:
        if task.cancelled or task.on_loss is OnLoss.FAIL:
            self.end(task, "failed")
        elif task.on_loss is OnLoss.REQUEUE:
            self.requeue(task)

    # rules

    @initialize()
    def submit_the_first(self) -> None:
        self.submit("a", 0, 0, OnLoss.REQUEUE, asks=False)

    @precondition(lambda self: self.made < 25)
    @rule(
        session=st.sampled_from([None, "a", "a", "b"]),
        priority=st.integers(-1, 1),
        delay=st.sampled_from([0, 0, 0, 5000]),
        on_loss=st.sampled_from(OnLoss),
        asks=st.sampled_from([False, False, False, True]),
    )
    def submit(self, session: str | None, priority: int, delay: int, on_loss: OnLoss, asks: bool) -> None:
        self.made += 1
        due = self.now + delay
        approval = Approval.WAITING if asks else Approval.NOT_NEEDED
        new = NewTask(
            id=TaskId(f"t{self.made}"),
            job=JobId(self.made),
            owner="ann",
            type=TaskType.COMMAND if session is None else TaskType.CLAUDE,
            work=Command(command="x", timeout=1)
            if session is None
            else Prompt(cli="claude", prompt="x", timeout=1, session_id=session),
            created_at=self.now,
            timeout_ms=TIMEOUT_MS,
            silence_ms=HOST_SILENCE_MS,
            session_id=session,
            priority=priority,
            not_before=due if delay else None,
            on_loss=on_loss,
            approval=approval,
            idempotency=(f"k{self.made}", "d"),
        )
        assert not self.do(self.store.host_tasks.submit(new, now=self.now)).replayed
        again = msgspec.structs.replace(new, id=TaskId("other"), job=JobId(1 << 40))
        assert self.do(self.store.host_tasks.submit(again, now=self.now)).replayed
        place = (order_of(self.now, priority), new.job)
        self.tasks[new.id] = ModelTask(new.id, new.job, session, place, due, on_loss, approval, due)

    @precondition(lambda self: self.made < 25)
    @rule(sessions=st.lists(st.sampled_from([None, "a", "a", "b"]), min_size=2, max_size=5))
    def submit_some(self, sessions: list[str | None]) -> None:
        for session in sessions:
            self.submit(session, 0, 0, OnLoss.REQUEUE, asks=False)

    @rule(count=st.integers(1, 3))
    def claim(self, count: int) -> None:
        expected = self.ready()[:count]
        polls = [Poll(runner=POLLER, reach=REACH)] * count
        claims = self.do(self.store.host_tasks.claim(polls, now=self.now))
        assert [claimed.task.id for claimed in claims if claimed] == [task.id for task in expected]
        for task, claimed in zip(expected, claims, strict=False):
            assert claimed.fence > self.fences
            assert claimed.task.attempt == task.used + 1
            self.fences = task.fence = claimed.fence
            self.run(task)

    @precondition(lambda self: self.pick(0, "running"))
    @rule(number=PICKS, stale=st.booleans())
    def undo_a_claim(self, number: int, stale: bool) -> None:
        task = self.pick(number, "running")
        if task.offer is not None:
            return
        undone = self.do(self.store.host_tasks.unclaim(task.id, task.fence - stale, now=self.now))
        assert undone is not stale
        if undone and task.cancelled:
            self.end(task, "failed")
        elif undone:
            task.state, task.status = "waiting", "pending"

    @rule(count=st.integers(1, 2))
    def offer(self, count: int) -> None:
        expected = self.ready()[:count]
        want = Want(runner=LINKED, caps="host", count=count, reach=REACH)
        offers = self.do(self.store.queue.offer([want], now=self.now, offer_ms=OFFER_MS))
        assert [offer.subject for offer in offers] == [task.id for task in expected]
        for task, offer in zip(expected, offers, strict=True):
            assert offer.fence > self.fences
            self.fences = task.fence = offer.fence
            task.state, task.offer, task.since = "offered", offer, self.now

    @precondition(lambda self: self.pick(0, "offered"))
    @rule(number=PICKS)
    def confirm(self, number: int) -> None:
        task = self.pick(number, "offered")
        in_time = self.now < task.since + OFFER_MS
        assert self.do(self.store.queue.confirm(claim_of(task.offer), LINKED, now=self.now)) is in_time
        if in_time:
            self.run(task)

    @precondition(lambda self: any(task.offer for task in self.tasks.values()))
    @rule(number=PICKS, code=st.integers(0, 1))
    def finish(self, number: int, code: int) -> None:
        known = [task for task in self.tasks.values() if task.offer is not None]
        task = known[number % len(known)]
        told = TaskReport(stdout="link", exit_code=code)
        outcome = Outcome(succeeded=not code, reason="exit", result=msgspec.msgpack.encode(told))
        finish = Finish(claim=claim_of(task.offer), outcome=outcome)
        answer = self.do(self.store.queue.finish(finish, now=self.now))
        assert answer.accepted is (task.state == "running" and task.fence == task.offer.fence)
        if answer.accepted:
            cancelled = task.cancelled
            self.end(task, "failed" if code or cancelled else "completed", None if cancelled else told)

    @rule()
    def heartbeat(self) -> None:
        self.do(self.store.queue.heartbeat(LINKED, [], now=self.now))
        self.seen = self.now

    @precondition(lambda self: self.tasks)
    @rule(number=PICKS, code=st.integers(0, 1))
    def report(self, number: int, code: int) -> None:
        task = self.pick(number)
        told = TaskReport(stdout="poll", exit_code=code)
        self.note_report(task, told, self.do(self.store.host_tasks.report(task.id, told, now=self.now)))

    @precondition(lambda self: self.pick(0, "running"))
    @rule(code=st.integers(0, 1), claims=st.booleans())
    def report_what_runs(self, code: int, claims: bool) -> None:
        told = TaskReport(stdout="poll", exit_code=code)
        for task in [task for task in self.tasks.values() if task.state == "running"]:
            self.note_report(task, told, self.do(self.store.host_tasks.report(task.id, told, now=self.now)))
        if claims:
            self.claim(3)

    @precondition(lambda self: self.tasks)
    @rule(numbers=st.lists(PICKS, min_size=2, max_size=5), code=st.integers(0, 1))
    def report_at_once(self, numbers: list[int], code: int) -> None:
        told = TaskReport(stdout="poll", exit_code=code)
        tasks = [task for number in numbers if (task := self.pick(number)) is not None]
        for task, reported in zip(tasks, self.do(self.reports(tasks, told)), strict=True):
            self.note_report(task, told, reported)

    async def reports(self, tasks: list[ModelTask], told: TaskReport) -> list[Any]:
        return await asyncio.gather(*(self.store.host_tasks.report(task.id, told, now=self.now) for task in tasks))

    def note_report(self, task: ModelTask, told: TaskReport, reported: Any) -> None:
        if task.state == "ended":
            assert reported.outcome == ("repeated" if told == task.told else "conflict")
            return
        assert reported.outcome == "accepted"
        held = task.state in ("offered", "running")
        assert [lease.fence for lease in reported.leases] == [task.fence] * held
        self.end(task, "completed" if told.succeeded else "failed", told)

    @precondition(lambda self: self.tasks)
    @rule(number=PICKS)
    def cancel(self, number: int) -> None:
        task = self.pick(number)
        answer = self.do(self.store.host_tasks.cancel(task.id, "no", now=self.now))
        if task.state == "ended":
            assert answer is None
        elif task.state == "running":
            task.cancelled = True
            assert [lease.confirmed for lease in answer[1]] == [True]
        else:
            self.end(task, "failed")

    @precondition(lambda self: any(task.approval is Approval.WAITING for task in self.tasks.values()))
    @rule(number=PICKS, given=st.sampled_from([True, True, False]))
    def approve(self, number: int, given: bool) -> None:
        asked = [task for task in self.tasks.values() if task.approval is Approval.WAITING]
        task = asked[number % len(asked)]
        answer = self.do(self.store.host_tasks.approve(task.id, given=given, by="eve", now=self.now))
        assert (answer is None) is (task.state == "ended")
        if answer is None:
            return
        task.approval, task.aging = Approval.GIVEN if given else Approval.REFUSED, self.now
        if not given:
            self.end(task, "failed")

    @precondition(lambda self: self.tasks)
    @rule(number=PICKS)
    def take(self, number: int) -> None:
        task = self.pick(number, "ended") or self.pick(number)
        taken = self.do(self.store.host_tasks.take_result(task.id, now=self.now))
        assert (taken is not None) is (task.state == "ended" and task.taken_at is None)
        if taken is not None:
            told = json.loads(taken.body)
            assert (told["exitCode"] == 0) is (task.status == "completed")
            task.taken_at = self.now
            self.reconciled[task.id] += 1

    @precondition(lambda self: any(task.taken_at is not None for task in self.tasks.values()))
    @rule(number=PICKS)
    def put_back(self, number: int) -> None:
        known = [task for task in self.tasks.values() if task.taken_at is not None]
        task = known[number % len(known)]
        self.do(self.store.host_tasks.put_back(task.id))
        task.taken_at = None
        self.reconciled[task.id] -= 1

    @rule(seconds=st.sampled_from([1, 5, 10, 60, 90]))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.pick(0, "running"))
    @rule()
    def let_deadlines_pass(self) -> None:
        self.clock.advance(TIMEOUT_MS / 1000)
        self.expire()

    @precondition(lambda self: len(self.tasks) > 3)
    @rule(undoes=st.booleans())
    def let_all_grow_old(self, undoes: bool) -> None:
        if undoes and self.pick(0, "running"):
            self.undo_a_claim(0, stale=False)
        self.clock.advance(KEEP.task_ms / 1000)
        self.sweep()

    @rule()
    def expire(self) -> None:
        self.do(self.store.queue.expire(now=self.now, silence_ms=SILENCE_MS))
        for task in self.tasks.values():
            if task.state == "offered" and self.now >= task.since + OFFER_MS:
                task.state, task.offer = "waiting", None
            elif task.state == "running" and self.now >= task.since + TIMEOUT_MS:
                self.end(task, "failed")
            elif task.state == "running" and self.is_silent(task):
                self.lose(task)

    @precondition(lambda self: self.pick(0, "running"))
    @rule(number=PICKS, stale=st.booleans())
    def a_runner_has_lost_a_task(self, number: int, stale: bool) -> None:
        task = self.pick(number, "running")
        told = self.do(self.store.host_tasks.lose([(JobId(task.job), task.fence - stale)], now=self.now))
        assert [lost.id for lost, _ in told] == [task.id] * (not stale)
        if not stale:
            self.lose(task)

    @rule()
    def sweep(self) -> None:
        swept = self.do(self.store.host_tasks.sweep(KEEP, now=self.now))
        gone = [
            task
            for task in self.tasks.values()
            if (task.state == "waiting" and task.approval is not Approval.WAITING and self.age(task) >= KEEP.task_ms)
        ]
        assert set(swept.expired) == {task.id for task in gone}
        for task in self.tasks.values():
            if task.state == "ended":
                old = self.now - task.ended_at >= KEEP.result_ms
                if old if task.taken_at is None else self.now - task.taken_at >= KEEP.grace_ms:
                    gone.append(task)
        for task in gone:
            del self.tasks[task.id]

    def age(self, task: ModelTask) -> int:
        return self.now - task.aging

    @rule(numbers=st.lists(PICKS, max_size=2), reopens=st.booleans())
    def crash_and_reopen(self, numbers: list[int], reopens: bool) -> None:
        """Copy the files while reports are in flight, open the copy, and send the reports again."""
        told = TaskReport(stdout="poll", exit_code=0)
        tasks = list({task.id: task for number in numbers if (task := self.pick(number, "running"))}.values())
        self.do(self.crash([(task.id, told) for task in tasks]))
        for task in tasks:
            reported = self.do(self.store.host_tasks.report(task.id, told, now=self.now))
            assert reported.outcome in ("accepted", "repeated")
            self.end(task, "completed", told)
        if reopens:
            self.do(self.store.host_tasks.reopen(now=self.now))
            for task in self.tasks.values():
                if task.state == "running" and task.offer is None:
                    self.lose(task)

    async def crash(self, in_flight: list[tuple[TaskId, TaskReport]]) -> None:
        sending = [
            asyncio.ensure_future(self.store.host_tasks.report(task, told, now=self.now)) for task, told in in_flight
        ]
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
    def every_task_is_as_the_model_says(self) -> None:
        for task in self.tasks.values():
            found = self.do(self.store.host_tasks.find(task.id))
            assert (found.status, found.approval) == (task.status, task.approval)
            if task.state != "ended":
                assert found.attempt == task.used + (task.state == "running")
            outlook = self.do(self.store.host_tasks.outlook(task.id))
            assert outlook.status == (None if task.taken_at is not None else task.status)
            assert outlook.ready is (task.state == "ended" and task.taken_at is None)

    @invariant()
    def the_counters_are_those_of_the_model(self) -> None:
        shown = [task for task in self.tasks.values() if task.taken_at is None]
        counts = self.do(self.store.host_tasks.counts())
        assert counts.by_status == Counter(task.status for task in shown)
        assert counts.results == sum(task.state == "ended" for task in shown)
        depth = self.do(self.store.queue.depth())
        states = Counter(task.state for task in self.tasks.values())
        assert sum(depth.ready.values()) == len(self.in_queue())
        assert sum(depth.offered.values()) == states["offered"]
        assert sum(depth.leased.values()) == states["running"]

    @invariant()
    def every_lease_is_a_running_or_offered_task(self) -> None:
        leases = self.do(self.store.queue.leases())
        held = [task for task in self.tasks.values() if task.state in ("offered", "running")]
        assert {(lease.subject, lease.fence, lease.cancel is not None) for lease in leases} == {
            (task.id, task.fence, task.cancelled) for task in held
        }

    @invariant()
    def every_task_has_at_most_one_end_and_its_results_were_handed_out_once_each_time(self) -> None:
        events = self.do(self.store.task_events.page(task="", type_="", limit=10_000, since=0))
        ends = {(event.task_id, event.type) for event in events if event.type in ("task.completed", "task.failed")}
        assert ends == {(task, f"task.{status}") for task, status in self.ended.items()}
        told = Counter(event.type for event in events)
        assert told["task.completed"] + told["task.failed"] == len(self.ended)
        assert Counter(each.task_id for each in events if each.type == "task.reconciled") == +self.reconciled

    @invariant()
    def of_a_conversation_one_task_is_out_and_they_were_started_in_order(self) -> None:
        out = Counter(task.session for task in self.tasks.values() if task.state in ("offered", "running"))
        assert all(number == 1 for session, number in out.items() if session is not None)
        for session in ("a", "b"):
            jobs = [job for of, job in self.started if of == session]
            assert jobs == sorted(jobs)


def claim_of(offer: Offer) -> Claim:
    return Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)


HostMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    database=None,
    phases=(Phase.generate,),  # add Phase.shrink to look into a failure; it takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHostMachine = HostMachine.TestCase
