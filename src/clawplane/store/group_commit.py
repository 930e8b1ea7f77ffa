"""Commit together what arrived together.

The event loop's side collects writes and hands them to one thread; the thread takes everything that waits, runs it in
one transaction and sends the answers back in one call. There is no timer: while a commit is in flight, the next batch
grows. Rules that never break:

* an answer is sent after the commit that covers it, never before;
* writes of one batch run in the order in which they arrived;
* a write that fails alone is undone alone; a commit that fails is answered to everyone in it;
* callers that went away do not disturb the batch they were in.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import msgspec

from clawplane.domain.errors import InternalError, Unavailable
from clawplane.store.database import Operation, Transaction

R = TypeVar("R")

MAX_BATCH = 2000
MAX_QUEUED = 20_000
MAX_QUEUED_BYTES = 128 << 20


class Write(msgspec.Struct, gc=False):
    """One item on its way to the database."""

    operation: Operation[Any, Any]
    item: Any
    answer: asyncio.Future[Any]
    weight: int


class Engine(Protocol):
    """What commits a batch; called by the writer's thread only."""

    def commit(self, writes: Sequence[Write]) -> list[Any]:
        """Run the writes in one transaction and return a result or exception for each; raises when nothing was kept."""
        ...

    def rest(self) -> None:
        """Do what is best done when nobody writes."""
        ...


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
    tx: Transaction, writes: Sequence[Write], savepoint: Callable[[], Savepoint], refusal_of: RefusalOf
) -> list[Any]:
    """Run writes in order, neighbours of one operation together; errors that concern no single item pass."""
    results: list[Any] = []
    items: list[Any] = []
    operation = writes[0].operation
    for write in writes:
        if write.operation is not operation:
            results += _run_group(tx, operation, items, savepoint, refusal_of)
            operation, items = write.operation, []
        items.append(write.item)
    return results + _run_group(tx, operation, items, savepoint, refusal_of)


def _run_group(
    tx: Transaction,
    operation: Operation[Any, Any],
    items: list[Any],
    savepoint: Callable[[], Savepoint],
    refusal_of: RefusalOf,
) -> list[Any]:
    try:
        with savepoint():
            results = list(drive(operation(tx, items)))
            if len(results) != len(items):
                raise InternalError(f"A store operation gave {len(results)} results for {len(items)} items.")
            return results
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        if len(items) == 1:
            return [refusal]
    return [result for item in items for result in _run_group(tx, operation, [item], savepoint, refusal_of)]


class GroupCommit:
    """The queue between the callers on one event loop and the writer's thread."""

    def __init__(self, engine: Engine, *, idle_seconds: float, name: str = "store-writer") -> None:
        self._engine = engine
        self._idle_seconds = idle_seconds
        self._loop = asyncio.get_running_loop()
        self._collecting: list[Write] = []
        self._queue: deque[Write] = deque()
        self._queued = 0
        self._queued_bytes = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._asleep = False
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def write(self, operation: Operation[Any, R], item: Any, weight: int) -> Awaitable[R]:
        """Queue one item; what is returned waits for its result after the commit, or for room first."""
        if self._queued >= MAX_QUEUED or self._queued_bytes >= MAX_QUEUED_BYTES:
            return self._write_when_there_is_room(operation, item, weight)
        if self._closing:
            raise Unavailable("The store is closed.")
        answer: asyncio.Future[R] = self._loop.create_future()
        self._queued += 1
        self._queued_bytes += weight
        if not self._collecting:
            self._loop.call_soon(self._hand_over)
        self._collecting.append(Write(operation, item, answer, weight))
        return answer

    async def _write_when_there_is_room(self, operation: Operation[Any, R], item: Any, weight: int) -> R:
        room = self._loop.create_future()
        self._room.append(room)
        await room
        return await self.write(operation, item, weight)

    async def close(self) -> None:
        """Commit what was accepted and end the thread."""
        self._closing = True
        self._hand_over()
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        # answers were sent by call_soon_threadsafe before the thread ended; let them arrive
        await asyncio.sleep(0)

    def _hand_over(self) -> None:
        """Give the thread what one turn of the loop has collected, so that it arrives as one batch."""
        self._queue.extend(self._collecting)
        self._collecting = []
        if self._asleep:
            self._wake.set()

    def _run(self) -> None:
        rested = False
        while True:
            batch = self._take()
            if batch:
                self._commit(batch)
                rested = False
            elif self._closing:
                return
            elif self._sleep(None if rested else self._idle_seconds):
                self._engine.rest()
                rested = True

    def _take(self) -> list[Write]:
        queue = self._queue
        return [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]

    def _sleep(self, seconds: float | None) -> bool:
        """Wait for writes; True when `seconds` passed without any."""
        self._asleep = True
        # whoever appends looks at _asleep afterwards, so looking at the queue again here loses no wake-up
        woken = bool(self._queue) or self._closing or self._wake.wait(seconds)
        self._asleep = False
        self._wake.clear()
        return not woken

    def _commit(self, batch: list[Write]) -> None:
        try:
            results: Sequence[Any] = self._engine.commit(batch)
        except Exception as error:  # whatever went wrong, the callers must hear of it and the thread must live
            results = [error] * len(batch)
        with suppress(RuntimeError):  # the loop was closed without closing the store: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, batch, results)

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
