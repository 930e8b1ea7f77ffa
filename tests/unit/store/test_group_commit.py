from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest

from clawplane.domain.errors import Conflict, InternalError, Unavailable
from clawplane.store import group_commit
from clawplane.store.group_commit import Costs, GroupCommit, NotAtOnce, Savepoint, Write, drive, run_batch


class Undo:
    """A savepoint over a list."""

    def __init__(self, log: list[Any]) -> None:
        self._log = log
        self._length = 0

    def __enter__(self) -> None:
        self._length = len(self._log)

    def __exit__(self, failed: object, /, *rest: object) -> None:
        if failed:
            del self._log[self._length :]


class ListEngine:
    """Commit into a list; `gate` lets a test hold the writer's thread inside a commit."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.batches: list[int] = []
        self.rests = threading.Event()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.failing: Exception | None = None
        self.broken: Exception | None = None
        self.cost = 0.0
        self.locked = False
        self.threads: list[bool] = []
        """For each run, whether it was on the loop's thread; `commits` likewise."""
        self.commits: list[bool] = []

    def run(self, writes: Sequence[Write], costs: Costs, *, wait: bool) -> list[Any]:
        if self.locked and not wait:
            raise NotAtOnce
        self.threads.append(threading.current_thread() is threading.main_thread())
        if self.broken is not None:
            raise self.broken
        self.batches.append(len(writes))
        tx: Any = self.log
        savepoint: Callable[[], Savepoint] = partial(Undo, self.log)
        refusal_of = lambda error: None if isinstance(error, OSError) else error  # noqa: E731
        return run_batch(tx, writes, savepoint, refusal_of, lambda operation, _: costs.note(operation, self.cost))

    def commit(self) -> None:
        self.commits.append(threading.current_thread() is threading.main_thread())
        self.entered.set()
        assert self.gate.wait(30)
        if self.failing is not None:
            raise self.failing

    def rest(self) -> None:
        self.rests.set()


async def add(log: Any, items: Sequence[Any]) -> list[Any]:
    log.append(("add", list(items)))
    return [item * 10 for item in items]


async def picky(log: Any, items: Sequence[Any]) -> list[Any]:
    for item in items:
        log.append(("picky", item))
        if item < 0:
            raise ValueError(f"no {item}")
    return list(items)


async def refusing(_: Any, items: Sequence[Any]) -> list[Any]:
    return [Conflict(f"no {item}") if item < 0 else item for item in items]


async def hold(engine: ListEngine, commits: GroupCommit) -> asyncio.Future[Any]:
    """Keep the writer busy with one write until the gate opens."""
    engine.gate.clear()
    first = asyncio.ensure_future(commits.write(add, 0, 0))
    assert await asyncio.to_thread(engine.entered.wait, 30)
    return first


async def test_what_arrives_while_a_commit_is_in_flight_is_committed_together() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    first = await hold(engine, commits)
    others = [asyncio.ensure_future(commits.write(add, number, 0)) for number in range(1, 100)]
    await asyncio.sleep(0)
    engine.gate.set()
    assert await asyncio.gather(first, *others) == [number * 10 for number in range(100)]
    assert engine.batches == [1, 99]
    await commits.close()


async def test_mixed_writes_run_in_order_of_arrival_and_neighbours_in_one_call() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    operations = [(add, 1), (add, 2), (picky, 3), (add, 4)]
    await asyncio.gather(*(commits.write(operation, item, 0) for operation, item in operations))
    assert engine.log == [("add", [1, 2]), ("picky", 3), ("add", [4])]
    await commits.close()


async def test_an_item_that_is_refused_fails_alone() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    answers = await asyncio.gather(*(commits.write(refusing, item, 0) for item in (1, -2, 3)), return_exceptions=True)
    assert [answers[0], type(answers[1]), answers[2]] == [1, Conflict, 3]
    await commits.close()


async def test_an_item_that_raises_is_undone_alone_and_the_others_are_kept_once() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    answers = await asyncio.gather(*(commits.write(picky, item, 0) for item in (1, -2, 3)), return_exceptions=True)
    assert [answers[0], str(answers[1]), answers[2]] == [1, "no -2", 3]
    assert engine.log == [("picky", 1), ("picky", 3)]
    await commits.close()


async def test_a_commit_that_fails_is_answered_to_everyone_in_it_and_the_next_one_works() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    engine.failing = OSError("the disk is gone")
    answers = await asyncio.gather(*(commits.write(add, item, 0) for item in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["the disk is gone"] * 3
    engine.failing = None
    assert await commits.write(add, 5, 0) == 50
    await commits.close()


async def test_what_was_measured_to_be_brief_is_run_by_the_loop_and_committed_by_the_writer() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    assert [await commits.write(add, number, 0) for number in range(3)] == [0, 10, 20]
    assert engine.threads == [False, True, True]
    assert engine.commits == [False, False, False]
    await commits.close()


async def test_what_takes_long_goes_to_the_writer_until_it_was_brief_for_a_while() -> None:
    engine = ListEngine()
    engine.cost = group_commit.BRIEF_SECONDS * 1.5
    commits = GroupCommit(engine, idle_seconds=60)
    await commits.write(add, 0, 0)
    engine.cost = 0.0
    for number in range(3):
        await commits.write(add, number, 0)
    assert engine.threads == [False, False, True, True]
    await commits.close()


async def test_many_brief_ones_and_heavy_ones_go_to_the_writer() -> None:
    engine = ListEngine()
    engine.cost = group_commit.BRIEF_SECONDS / 10
    commits = GroupCommit(engine, idle_seconds=60)
    await commits.write(add, 0, 0)
    await asyncio.gather(*(commits.write(add, number, 0) for number in range(11)))
    await commits.write(add, 0, group_commit.BRIEF_BYTES + 1)
    await commits.write(add, 0, 0)
    assert engine.threads == [False, False, False, True]
    await commits.close()


async def test_the_loop_never_waits_for_another_program_that_holds_the_file() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    await commits.write(add, 0, 0)
    engine.locked = True
    assert await commits.write(add, 1, 0) == 10
    assert engine.threads == [False, False]
    await commits.close()


async def test_a_batch_that_breaks_on_the_loop_is_answered_to_everyone_in_it_and_the_next_one_works() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    await commits.write(add, 0, 0)
    engine.broken = OSError("the disk is gone")
    answers = await asyncio.gather(*(commits.write(add, item, 0) for item in range(2)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["the disk is gone"] * 2
    engine.broken = None
    assert await commits.write(add, 5, 0) == 50
    await commits.close()


async def test_callers_wait_while_too_many_bytes_are_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_QUEUED_BYTES", 100)
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    first = await hold(engine, commits)
    others = [asyncio.ensure_future(commits.write(add, number, 60)) for number in range(1, 6)]
    for _ in range(5):
        await asyncio.sleep(0)
    engine.gate.set()
    assert await asyncio.gather(first, *others) == [0, 10, 20, 30, 40, 50]
    assert max(engine.batches) == 2
    await commits.close()


async def test_the_engine_rests_once_when_nobody_writes() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=0.001)
    await commits.write(add, 1, 0)
    assert await asyncio.to_thread(engine.rests.wait, 30)
    await commits.close()


async def test_closing_commits_what_was_accepted_and_refuses_the_rest() -> None:
    engine = ListEngine()
    commits = GroupCommit(engine, idle_seconds=60)
    first = await hold(engine, commits)
    second = asyncio.ensure_future(commits.write(add, 1, 0))
    await asyncio.sleep(0)
    closing = asyncio.create_task(commits.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await commits.write(add, 2, 0)
    engine.gate.set()
    await closing
    assert await asyncio.gather(first, second) == [0, 10]


def test_an_operation_that_waits_for_something_else_is_a_defect_that_is_named() -> None:
    async def waits() -> None:
        await asyncio.sleep(0)

    coroutine: Coroutine[Any, Any, None] = waits()
    with pytest.raises(InternalError):
        drive(coroutine)
