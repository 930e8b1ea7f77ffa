"""One suite per port, run by every implementation: an engine joins by adding its name to ENGINES."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.batches import Batch, LogLine, ShippedRow
from clawplane.domain.clock import ManualClock
from clawplane.domain.ids import JobId, RunnerId, RunSlug, WorkerSlug
from clawplane.domain.leases import Claim, Finish, JobKind, NewJob, Offer, Outcome, RunnerRecord, Want
from clawplane.domain.lifecycle import RunStatus, VersionStatus
from clawplane.domain.runs import NewRun, Run, RunSystem
from clawplane.domain.workers import Worker, WorkerVersion, build_subject
from clawplane.store import Store, open_store

ENGINES = ["sqlite"]
T0 = 1_780_000_000_000
OFFER_MS = 10_000
SILENCE_MS = 12_000


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
