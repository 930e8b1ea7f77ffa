"""Commit together what arrived together.

The event loop's side collects writes; one batch at a time is on its way to the disk, and while it is, the next one
grows. There is no timer. A batch that is brief is run on the event loop's own thread, and only its commit, which waits
for the disk, goes to the writer's thread: each statement gives up the interpreter's lock, and handing it to and fro
between two busy threads some forty times costs more than the statements. A batch that may take long is run by the
writer's thread as a whole. What is brief is measured, operation by operation; see Costs. Rules that never break:

* an answer is sent after the commit that covers it, never before;
* writes run in the order in which they arrived;
* a write that fails alone is undone alone; a commit that fails is answered to everyone in it;
* callers that went away do not disturb the batch they were in;
* the engine is used by one thread at a time: by the loop's only while the writer's thread has nothing to do.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import msgspec

from clawplane.domain.errors import InternalError, Unavailable
from clawplane.store.database import Operation, Transaction

R = TypeVar("R")

MAX_BATCH = 2000
MAX_QUEUED = 20_000
MAX_QUEUED_BYTES = 128 << 20
BRIEF_SECONDS = 0.004
BRIEF_BYTES = 256 << 10
_FORGETTING = 0.5


class Write(msgspec.Struct, gc=False):
    """One item on its way to the database."""

    operation: Operation[Any, Any]
    item: Any
    answer: asyncio.Future[Any]
    weight: int


class NotAtOnce(Exception):
    """A batch cannot be run without waiting for somebody else; nothing of it was done."""


class Engine(Protocol):
    """What keeps the writes; used by one thread at a time."""

    def run(self, writes: Sequence[Write], costs: Costs, *, wait: bool) -> list[Any]:
        """Run the writes in a transaction that stays open, and note what they cost; return a result for each.

        A result may be an exception. Raises when nothing was kept, and NotAtOnce when it had to wait and may not.
        """
        ...

    def commit(self) -> None:
        """Make durable what was run; raises when nothing was kept."""
        ...

    def rest(self) -> None:
        """Do what is best done when nobody writes."""
        ...


class Costs:
    """What an item of each operation takes, in seconds: more is believed at once, less by and by.

    Measured on the clock of the thread, so that waiting for the interpreter's lock does not count, and on the wall
    clock where the event loop stood still meanwhile.
    """

    def __init__(self) -> None:
        self._of: dict[Operation[Any, Any], float] = {}

    def note(self, operation: Operation[Any, Any], seconds: float) -> None:
        """Learn from one more measurement of one item."""
        known = self._of.get(operation, 0.0)
        self._of[operation] = seconds if seconds > known else known + (seconds - known) * _FORGETTING

    def laps(self, clock: Callable[[], float]) -> Callable[[Operation[Any, Any], int], None]:
        """Return what is told, from now on, whenever an operation is through with so many items."""
        last = clock()

        def lap(operation: Operation[Any, Any], count: int) -> None:
            nonlocal last
            now = clock()
            self.note(operation, (now - last) / count)
            last = now

        return lap

    def brief(self, writes: Sequence[Write]) -> bool:
        """Tell whether a batch may be run where the event loop waits for it; what was never measured may not."""
        left, of = BRIEF_SECONDS, self._of
        weight = 0
        for write in writes:
            left -= of.get(write.operation, BRIEF_SECONDS)
            weight += write.weight
            if left <= 0 or weight > BRIEF_BYTES:
                return False
        return True


def drive(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that awaits nothing but its transaction from start to end."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    coroutine.close()
    raise InternalError("A store operation waited for something other than its transaction.")


class Savepoint(Protocol):
    """Undo a part of a transaction."""

    def __enter__(self) -> None:
        """Remember this point."""

    def __exit__(self, failed: object, /, *rest: object) -> None:
        """Keep what was done since, or undo it when an exception passes."""


RefusalOf = Callable[[Exception], Exception | None]
"""Returns what to answer to the one item that an error concerns, None when the whole batch has failed."""


def run_batch(
    tx: Transaction,
    writes: Sequence[Write],
    savepoint: Callable[[], Savepoint],
    refusal_of: RefusalOf,
    lap: Callable[[Operation[Any, Any], int], None],
) -> list[Any]:
    """Run writes in order, neighbours of one operation together; errors that concern no single item pass.

    All are run within one savepoint, as nearly always nothing fails; when something does, group by group. `lap` is
    called when an operation is through with so many items.
    """
    groups: list[tuple[Operation[Any, Any], list[Any]]] = []
    for write in writes:
        if not groups or write.operation is not groups[-1][0]:
            groups.append((write.operation, []))
        groups[-1][1].append(write.item)
    try:
        with savepoint():
            results: list[Any] = []
            for operation, items in groups:
                results += _run(tx, operation, items)
                lap(operation, len(items))
            return results
    except Exception as error:
        if refusal_of(error) is None:
            raise
    return [result for operation, items in groups for result in _run_group(tx, operation, items, savepoint, refusal_of)]


def _run(tx: Transaction, operation: Operation[Any, Any], items: list[Any]) -> list[Any]:
    results = list(drive(operation(tx, items)))
    if len(results) != len(items):
        raise InternalError(f"A store operation gave {len(results)} results for {len(items)} items.")
    return results


def _run_group(
    tx: Transaction,
    operation: Operation[Any, Any],
    items: list[Any],
    savepoint: Callable[[], Savepoint],
    refusal_of: RefusalOf,
) -> list[Any]:
    try:
        with savepoint():
            return _run(tx, operation, items)
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        if len(items) == 1:
            return [refusal]
    return [result for item in items for result in _run_group(tx, operation, [item], savepoint, refusal_of)]


class GroupCommit:
    """The queue between the callers on one event loop and the disk."""

    def __init__(self, engine: Engine, *, idle_seconds: float, name: str = "store-writer") -> None:
        self._engine = engine
        self._idle_seconds = idle_seconds
        self._loop = asyncio.get_running_loop()
        self._costs = Costs()
        self._queue: deque[Write] = deque()
        self._queued = 0
        self._queued_bytes = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._called = False  # whether _next will be called in any case
        self._busy = False  # whether the engine is the writer's thread's
        self._resting: asyncio.TimerHandle | None = None
        self._closing: asyncio.Future[None] | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    # on the event loop

    def write(self, operation: Operation[Any, R], item: Any, weight: int) -> Awaitable[R]:
        """Queue one item; what is returned waits for its result after the commit, or for room first."""
        if self._queued >= MAX_QUEUED or self._queued_bytes >= MAX_QUEUED_BYTES:
            return self._write_when_there_is_room(operation, item, weight)
        if self._closing is not None:
            raise Unavailable("The store is closed.")
        answer: asyncio.Future[R] = self._loop.create_future()
        self._queued += 1
        self._queued_bytes += weight
        self._queue.append(Write(operation, item, answer, weight))
        self._call_next()
        return answer

    async def _write_when_there_is_room(self, operation: Operation[Any, R], item: Any, weight: int) -> R:
        room = self._loop.create_future()
        self._room.append(room)
        await room
        return await self.write(operation, item, weight)

    async def close(self) -> None:
        """Commit what was accepted and end the thread."""
        if self._closing is None:
            self._closing = self._loop.create_future()
            self._call_next()
        await asyncio.shield(self._closing)
        await asyncio.to_thread(self._thread.join)

    def _call_next(self) -> None:
        """Take the next batch after this turn of the loop, so that what the turn brings arrives as one."""
        if not self._called and not self._busy:
            self._called = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._called = False
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
        if not batch:
            self._idle()
            return
        self._busy = True
        if self._costs.brief(batch):
            try:
                results = self._engine.run(batch, self._costs, wait=False)
            except NotAtOnce:
                pass
            except Exception as error:  # the callers must hear of it, and the next batch must have its turn
                self._deliver(batch, [error] * len(batch))
                return
            else:
                self._jobs.put(partial(self._commit, batch, results))
                return
        self._jobs.put(partial(self._run_and_commit, batch))

    def _idle(self) -> None:
        if self._closing is not None:
            if not self._closing.done():
                self._closing.set_result(None)
                self._jobs.put(None)
            return
        self._resting = self._loop.call_later(self._idle_seconds, self._rest)

    def _rest(self) -> None:
        self._resting = None
        if not self._called and not self._busy:
            self._busy = True
            self._jobs.put(self._let_rest)

    def _rested(self) -> None:
        self._busy = False
        if self._queue or self._closing is not None:
            self._call_next()

    def _deliver(self, batch: list[Write], results: Sequence[Any]) -> None:
        for write, result in zip(batch, results, strict=True):
            self._queued_bytes -= write.weight
            answer = write.answer
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        self._queued -= len(batch)
        while self._room:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)
        self._busy = False
        self._call_next()  # after those who were answered: what they write now comes along

    # in the writer's thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _run_and_commit(self, batch: list[Write]) -> None:
        try:
            results = self._engine.run(batch, self._costs, wait=True)
        except Exception as error:  # whatever went wrong, the callers must hear of it and the thread must live
            self._tell(self._deliver, batch, [error] * len(batch))
        else:
            self._commit(batch, results)

    def _commit(self, batch: list[Write], results: Sequence[Any]) -> None:
        try:
            self._engine.commit()
        except Exception as error:  # as above
            results = [error] * len(batch)
        self._tell(self._deliver, batch, results)

    def _let_rest(self) -> None:
        try:
            self._engine.rest()
        finally:
            self._tell(self._rested)

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop was closed without closing the store: nobody waits any more
            self._loop.call_soon_threadsafe(what, *arguments)
