"""One suite per port, run by every implementation: an engine joins by adding its name to ENGINES."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.batches import Batch, LogLine, ShippedRow
from clawplane.domain.clock import ManualClock
from clawplane.domain.host_ports import Claimed, Poll, Reported
from clawplane.domain.host_tasks import (
    GROUPS,
    Command,
    FileRead,
    HostTask,
    NewTask,
    Prompt,
    Reach,
    TaskEvent,
    TaskId,
    TaskReport,
    TaskStatus,
    TaskType,
)
from clawplane.domain.ids import JobId, RunnerId, RunSlug, WorkerSlug
from clawplane.domain.leases import Claim, Finish, JobKind, NewJob, Offer, Outcome, RunnerRecord, Want
from clawplane.domain.lifecycle import RunStatus, VersionStatus
from clawplane.domain.runs import NewRun, Run, RunSystem
from clawplane.domain.workers import Worker, WorkerVersion, build_subject
from clawplane.store import Store, open_store
from clawplane.store.host_tasks import SqlHostTasks

ENGINES = ["sqlite"]
T0 = 1_780_000_000_000
OFFER_MS = 10_000
SILENCE_MS = 12_000
MINUTE = 60_000
CLIS = {"claude": TaskType.CLAUDE, "codex": TaskType.CODEX, "gemini": TaskType.GEMINI}
DONE = TaskReport(stdout="hi\n", exit_code=0, duration=5)
FAILED = TaskReport(stdout="no", stderr="bad", exit_code=17, error="Exit code 17")
_jobs = itertools.count(1)


class Bench:
    """A store with short ways to do what the tests do all the time; `now` is the tests' clock in milliseconds."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self._ids = itertools.count(1000)
        self._names = itertools.count(1)

    @property
    def now(self) -> int:
        return self.clock.now_ms()

    def job(self, **changes: Any) -> NewJob:
        values: dict[str, Any] = {
            "id": JobId(next(self._ids)),
            "kind": JobKind.SUBTASK,
            "subject": "nothing",
            "caps": "workers",
            "ready_at": self.now,
            "spec": b"spec",
            "timeout_ms": 60_000,
            "max_attempts": 3,
        }
        return NewJob(**(values | changes))

    def new_run(self, subtasks: int = 1, *, caps: str = "workers", max_attempts: int = 3, **changes: Any) -> NewRun:
        slug = RunSlug(f"run-{next(self._names):04}")
        jobs = tuple(
            self.job(subject=slug, caps=caps, max_attempts=max_attempts, ready_at=changes.get("created_at", self.now))
            for _ in range(subtasks)
        )
        values: dict[str, Any] = {
            "slug": slug,
            "worker": WorkerSlug("worker-1"),
            "worker_title": "A Worker",
            "version": "v1.0.0",
            "owner": "ann",
            "status": RunStatus.READY,
            "input": b'{"a":1}',
            "system": RunSystem(memory=256),
            "subtask_count": subtasks,
            "created_at": self.now,
        }
        return NewRun(run=Run(**(values | changes)), jobs=jobs)

    async def start(self, subtasks: int = 1, **changes: Any) -> NewRun:
        new = self.new_run(subtasks, **changes)
        await self.store.runs.start(new, max_running=1000)
        return new

    async def offer(self, count: int = 1, runner: str = "r1", caps: str = "workers") -> list[Offer]:
        wants = [Want(runner=RunnerId(runner), caps=caps, count=count)]
        return await self.store.queue.offer(wants, now=self.now, offer_ms=OFFER_MS)

    async def lease(self, count: int = 1, runner: str = "r1", caps: str = "workers") -> list[Offer]:
        """Offer and confirm."""
        offers = await self.offer(count, runner, caps)
        for offer in offers:
            assert await self.confirm(offer)
        return offers

    async def confirm(self, offer: Offer, runner: str | None = None) -> bool:
        return await self.store.queue.confirm(claim(offer), RunnerId(runner or offer.runner), now=self.now)

    async def finish(self, offer: Offer, **outcome: Any) -> Any:
        return await self.store.queue.finish(ending(offer, **outcome), now=self.now)

    async def ship(self, offer: Offer, seq: int, *rows: bytes | ShippedRow, logs: tuple[str, ...] = ()) -> Any:
        shipped = tuple(row if isinstance(row, ShippedRow) else ShippedRow(row) for row in rows)
        lines = tuple(LogLine(2, text, self.now) for text in logs)
        return await self.store.runs.append(Batch(job=offer.job, fence=offer.fence, seq=seq, rows=shipped, logs=lines))

    async def expire(self) -> Any:
        return await self.store.queue.expire(now=self.now, silence_ms=SILENCE_MS)

    async def run(self, new: NewRun) -> Run:
        found = await self.store.runs.find(new.run.slug)
        assert found is not None
        return found

    async def bodies(self, new: NewRun) -> list[bytes]:
        count, rows = await self.store.runs.rows(new.run.slug, limit=10_000, offset=0)
        assert count == len(rows) == (await self.run(new)).result_count
        return [row.body for row in rows]

    def runner(self, id_: str = "r1", **changes: Any) -> RunnerRecord:
        values: dict[str, Any] = {
            "id": RunnerId(id_),
            "name": id_,
            "version": "1",
            "capabilities": ("workers",),
            "labels": {"zone": "a"},
            "slots": {"workers": 4},
            "connected": True,
            "last_seen": self.now,
        }
        return RunnerRecord(**(values | changes))

    def worker(self, name: str = "shop", owner: str = "ann", **changes: Any) -> Worker:
        values: dict[str, Any] = {
            "slug": WorkerSlug(f"slug-of-{owner}-{name}"),
            "owner": owner,
            "name": name,
            "title": name.title(),
            "created_at": self.now,
            "updated_at": self.now,
        }
        return Worker(**(values | changes))

    def version(self, worker: Worker, number: str = "v1.0.0", **changes: Any) -> tuple[WorkerVersion, NewJob]:
        job = self.job(kind=JobKind.BUILD, caps="builds", subject=build_subject(worker.slug, number))
        values: dict[str, Any] = {
            "worker": worker.slug,
            "version": number,
            "language": "python",
            "status": VersionStatus.BUILDING,
            "package_key": "packages/ab",
            "package_sha256": "ab",
            "package_size": 5,
            "input_schema": b"{}",
            "output_schema": b"[]",
            "build_job": job.id,
            "created_at": self.now,
        }
        return WorkerVersion(**(values | changes)), job


class HostBench:
    """A store and its clock, with the verbs of host tasks; `bench` is the conformance suite's."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @property
    def store(self) -> Store:
        return self._bench.store

    @property
    def tasks(self) -> SqlHostTasks:
        return self.store.host_tasks

    @property
    def now(self) -> int:
        return self._bench.now

    def pass_ms(self, ms: int) -> None:
        self._bench.clock.advance(ms / 1000)

    def command(self, text: str = "echo hi", **changes: Any) -> NewTask:
        return self._new(TaskType.COMMAND, Command(command=text, timeout=30_000), changes)

    def read(self, path: str = "~/x", **changes: Any) -> NewTask:
        return self._new(TaskType.FILE_READ, FileRead(path=path), changes)

    def prompt(self, session: str | None = None, cli: str = "claude", text: str = "hi", **changes: Any) -> NewTask:
        session = session or str(uuid.uuid4())
        about = {name: changes.pop(name) for name in ("origin", "response_mode", "entrypoint") if name in changes}
        work = Prompt(cli=cli, prompt=text, timeout=120_000, session_id=session, **about)
        return self._new(CLIS[cli], work, {"session_id": session, **changes})

    def _new(self, type_: TaskType, work: Any, changes: dict[str, Any]) -> NewTask:
        values: dict[str, Any] = {
            "id": TaskId(str(uuid.uuid4())),
            "job": JobId(next(_jobs)),
            "owner": "ann",
            "type": type_,
            "work": work,
            "created_at": self.now,
            "timeout_ms": 10 * MINUTE,
        }
        return NewTask(**(values | changes))

    async def submit(self, new: NewTask) -> HostTask:
        return (await self.tasks.submit(new, now=self.now)).task

    def poll(self, runner: str = "poll:anonymous", **changes: Any) -> Poll:
        reach = Reach(**({"groups": GROUPS, "runner": runner.removeprefix("poll:")} | changes.pop("reach", {})))
        return Poll(runner=RunnerId(runner), reach=reach, **changes)

    async def claim(self, runner: str = "poll:anonymous", **changes: Any) -> Claimed | None:
        (claimed,) = await self.tasks.claim([self.poll(runner, **changes)], now=self.now)
        return claimed

    async def claimed(self, runner: str = "poll:anonymous", **changes: Any) -> Claimed:
        claimed = await self.claim(runner, **changes)
        assert claimed is not None
        return claimed

    async def claimed_ids(self, most: int = 20) -> list[TaskId]:
        """Claim one after the other until there is nothing; return what was claimed."""
        ids = []
        while len(ids) < most and (claimed := await self.claim()) is not None:
            ids.append(claimed.task.id)
        return ids

    async def report(self, task: TaskId, report: TaskReport = DONE) -> Reported:
        return await self.tasks.report(task, report, now=self.now)

    async def status(self, task: TaskId) -> TaskStatus:
        found = await self.tasks.find(task)
        assert found is not None
        return found.status

    async def result(self, task: TaskId) -> dict[str, Any]:
        stored = await self.tasks.result(task)
        assert stored is not None
        body: dict[str, Any] = json.loads(stored.body)
        return body

    async def events(self, task: TaskId | str = "", type_: str = "") -> list[TaskEvent]:
        """Return records, oldest first."""
        return await self.store.task_events.page(task=task, type_=type_, limit=500, since=0)

    async def trail(self, task: TaskId) -> list[str]:
        return [event.type.removeprefix("task.") for event in await self.events(task)]

    async def counts(self) -> tuple[dict[str, int], int]:
        counts = await self.tasks.counts()
        return counts.by_status, counts.results

    async def depth(self) -> tuple[int, int]:
        """Return how many jobs wait and how many are leased."""
        depth = await self.store.queue.depth()
        return sum(depth.ready.values()), sum(depth.leased.values())


def claim(offer: Offer) -> Claim:
    return Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)


def ending(offer: Offer, **outcome: Any) -> Finish:
    values: dict[str, Any] = {"succeeded": True, "reason": "exit", "exit_code": 0}
    return Finish(claim=claim(offer), outcome=Outcome(**(values | outcome)))


Opener = Callable[[Path], Awaitable[Store]]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def bench(engine: str, tmp_path: Path) -> AsyncIterator[Bench]:
    assert engine == "sqlite"
    clock = ManualClock(T0)
    store = await open_store(tmp_path / "data", clock=clock)
    yield Bench(store, clock)
    await store.close()


@pytest.fixture
def host(bench: Bench) -> HostBench:
    return HostBench(bench)
