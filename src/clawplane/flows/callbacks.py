"""Deliver what is owed to chats, gateways and webhooks: the loop over the durable outbox.

Who runs. The transaction that ends a task, or asks a person about one, puts its parcels into the outbox; its flow
notifies the channel CALLBACKS.
One loop looks for parcels whose time has come and starts a delivery for each, some at once, one at a time for each
destination so that two messages do not mix. With nothing due it sleeps until the next one is, or until it is notified.

Progress is stored behind each chunk, before the next is sent; so a process that is killed goes on where it was, and at
worst repeats the one chunk whose answer it did not see. Each parcel gets `callback.dispatched` before its first try
and, in the transaction that removes it, exactly one of `callback.sent` and `callback.failed`.

A message of which a part was sent holds its destination while it waits shortly; others wait in the outbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from clawplane.domain.callback_ports import Attempted, CallbackRefused, CallbackUnset, Courier, outcome_of
from clawplane.domain.clock import Clock
from clawplane.domain.errors import InvalidArgument, StoreError
from clawplane.domain.host_ports import HostTasks, Outbox, Parcel, TaskEvents
from clawplane.domain.host_tasks import HostTask, TaskEvent
from clawplane.domain.host_trail import event_of
from clawplane.domain.sealing import Sealing
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels

_log = logging.getLogger(__name__)

AT_ONCE: Final = 16
_LOOKED_AT: Final = 128
_HORIZON_MS: Final = 3_700_000
"""Further ahead than any wait, so that the time of the next one is always seen."""
_HELD_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 60.0
"""A notice that nobody gave, or a clock that was set, costs this much and no callback."""
_STORE_RETRY_SECONDS: Final = 1.0
_DEFECT_SECONDS: Final = 60.0
_LEAVE_SECONDS: Final = 1.0
_ENDED: Final = {"delivered": "callback.sent", "failed": "callback.failed"}

_Lane = tuple[str, str]


class Callbacks:
    """The outbox's loop, and the messages that the edge sends at once; `pause` is an argument for tests."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        tasks: HostTasks,
        events: TaskEvents,
        courier: Courier,
        sealing: Sealing,
        wakeups: Wakeups,
        clock: Clock,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._outbox = outbox
        self._tasks = tasks
        self._events = events
        self._courier = courier
        self._sealing = sealing
        self._wakeups = wakeups
        self._clock = clock
        self._pause = pause
        self._running: dict[_Lane, asyncio.Task[None]] = {}
        self._left: set[str] = set()
        """Parcels whose delivery has ended since the outbox was looked into: what was read of them is old."""
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin with what an earlier process left."""
        self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; what is being sent gets a moment to be answered, the rest stays in the outbox."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        running = list(self._running.values())
        if running:
            await asyncio.wait(running, timeout=_LEAVE_SECONDS)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._courier.close()

    async def notify(self, channel: str, message: str) -> int:
        """Send a message now and once and return the chat's status; see callback_ports.Notifier."""
        if not self._courier.has_token:
            raise CallbackUnset("CALLBACK_BOT_TOKEN not set", hint="Set it in the environment of the server.")
        told = await self._courier.notify(channel, message)
        if not told.allowed:
            raise InvalidArgument(told.text)
        if told.status == 0:
            raise CallbackRefused(told.text)
        if not 200 <= told.status < 300:
            raise CallbackRefused(f"Callback API {told.status}: {told.text}")
        return told.status

    async def _run(self) -> None:
        wakeup = self._wakeups.listen(channels.CALLBACKS)
        try:
            while True:
                try:
                    wait = await self._look()
                except StoreError as error:
                    _log.warning("callbacks wait: %s", error.message)
                    wait = _STORE_RETRY_SECONDS
                await wakeup.wait(_LOOK_SECONDS if wait is None else min(wait, _LOOK_SECONDS))
        finally:
            wakeup.close()

    async def _look(self) -> float | None:
        """Start what is due; return the seconds until something else is, None when that will be told."""
        now = self._clock.now_ms()
        self._left.clear()
        for parcel in await self._outbox.due(now=now + _HORIZON_MS, limit=_LOOKED_AT):
            if parcel.id in self._left:
                continue  # whoever left it has asked for another look
            if parcel.next_at > now:
                return (parcel.next_at - now) / 1000
            lane = (parcel.way, parcel.destination)
            if lane not in self._running:
                if len(self._running) >= AT_ONCE:
                    return None
                self._running[lane] = asyncio.create_task(self._deliver(parcel, lane))
        return None

    async def _deliver(self, parcel: Parcel, lane: _Lane) -> None:
        try:
            await self._try_until_free(parcel)
        except StoreError as error:
            _log.warning("the callback of task %s waits: %s", parcel.task, error.message)
            await self._pause(_STORE_RETRY_SECONDS)
        except Exception:
            _log.exception("the callback of task %s waits", parcel.task)
            await self._pause(_DEFECT_SECONDS)
        finally:
            del self._running[lane]
            self._left.add(parcel.id)
            self._wakeups.notify(channels.CALLBACKS)

    async def _try_until_free(self, parcel: Parcel) -> None:
        """Try a parcel, again and again while it holds its destination."""
        task = await self._tasks.find(parcel.task)
        if parcel.attempts == 0 and parcel.sent == 0:
            # asked for in one turn of the event loop, the two are one commit
            await asyncio.gather(
                self._events.append(self._event("callback.dispatched", task, parcel, _whither(parcel))),
                self._outbox.progress(parcel.id, sent=0, attempts=1, next_at=parcel.next_at),
            )
            self._wakeups.notify(channels.EVENTS)
        while True:
            attempted = await self._attempt(parcel)
            if attempted.skipped:
                passed_over = {**_whither(parcel), "from": "hook", "to": "chat", "error": attempted.skipped}
                await self._events.append(self._event("callback.fallback", task, parcel, passed_over))
            if attempted.verdict != "later":
                break
            next_at = self._clock.now_ms() + round(attempted.wait * 1000)
            parcel = msgspec.structs.replace(parcel, sent=attempted.sent, attempts=attempted.tries)
            await self._outbox.progress(parcel.id, sent=parcel.sent, attempts=parcel.attempts, next_at=next_at)
            if parcel.sent == 0 or attempted.wait > _HELD_SECONDS:
                return
            await self._pause(attempted.wait)
        event = self._event(_ENDED[attempted.verdict], task, parcel, {**_whither(parcel), **outcome_of(attempted)})
        await self._outbox.settle(parcel.id, event)
        self._wakeups.notify(channels.EVENTS)

    async def _attempt(self, parcel: Parcel) -> Attempted:
        try:
            secret = "" if parcel.token is None else self._sealing.unseal(parcel.token)
        except StoreError as error:
            return _Impossible(parcel, error.message)
        if parcel.way == "webhook":
            return await self._courier.webhook(
                parcel.id, parcel.destination, parcel.body, secret=secret, tries=parcel.attempts
            )

        async def delivered(sent: int) -> None:
            await self._outbox.progress(parcel.id, sent=sent, attempts=0, next_at=parcel.next_at)

        return await self._courier.chat(
            parcel.id,
            parcel.destination,
            parcel.body.decode("utf-8", "replace"),
            token=secret,
            sent=parcel.sent,
            tries=parcel.attempts,
            delivered=delivered,
            by_hook=not parcel.question,
        )

    def _event(self, type_: str, task: HostTask | None, parcel: Parcel, details: dict[str, Any]) -> TaskEvent:
        return event_of(task, type_, at=self._clock.now_ms(), details=details, task_id=parcel.task)


class _Impossible:
    """The outcome of a parcel that cannot even be tried."""

    verdict: Final = "failed"
    via: Final = "chat"
    status = 0
    wait = 0.0
    skipped = ""

    def __init__(self, parcel: Parcel, error: str) -> None:
        self.sent = parcel.sent
        self.tries = parcel.attempts
        self.error = error


def _whither(parcel: Parcel) -> dict[str, Any]:
    """Return what is recorded of a destination: of an address only the host, for the rest may hold secrets."""
    about = {"about": "approval"} if parcel.question else {}
    if parcel.way == "chat":
        return {"channel": parcel.destination, **about}
    try:
        return {"webhook": urlsplit(parcel.destination).hostname, **about}
    except ValueError:
        return {"webhook": None, **about}
