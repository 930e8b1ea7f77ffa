"""Do host tasks for a Task API server: the main loop of a runner that polls (10.1 of the contract).

    poll ----task----> execute ----report----> callback on disk -> report on disk -> both go out
      |  null: at once, but for nulls that come twenty times in a row without waiting: POLL_INTERVAL
      |  401: 10 s, for ever        anything else that is no task, no answer: min(5 s * failures, 60 s), with jitter
      '- all slots taken: POLL_INTERVAL, or until one is free

Only one poll is open at a time; before the first, and after each that failed, stock is taken (heartbeats.py). A task
that is given twice (its server lost count) is done once. The runner says who it is and what it can do in the query; a
plain Task API ignores that and is served all the same.

Leaving: the open poll is aborted, what runs is terminated and killed 3 s later, its ends are reported as far as the
server takes them in time. What is not acknowledged is on disk and goes out at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import clawplane
from clawplane.domain.callback_texts import message_of
from clawplane.domain.clock import Clock
from clawplane.domain.host_tasks import HostSpec, TaskId, TaskReport
from clawplane.domain.ids import RunnerId
from clawplane.runner.host.agents.turn import AskPerson
from clawplane.runner.host.callback_outbox import CallbackOutbox
from clawplane.runner.host.doing import Voices
from clawplane.runner.host.heartbeats import Heartbeats, Held
from clawplane.runner.host.pausing import Pause, pause_or
from clawplane.runner.host.poll_settings import PollSettings
from clawplane.runner.host.polled_asks import PolledAsks
from clawplane.runner.host.reporting import Reporter
from clawplane.runner.host.stopping import Stop
from clawplane.runner.host.task_api import TaskApi, TaskApiFailed, Unauthorized
from clawplane.runner.host.task_frames import PolledTask

UNAUTHORIZED_SECONDS: Final = 10.0
FAILURE_SECONDS: Final = 5.0
LONGEST_SECONDS: Final = 60.0
LEAVE_SECONDS: Final = 4.0
SETTLE_SECONDS: Final = 0.7
_KILLED: Final = 137
_QUICK_SECONDS: Final = 0.1
_QUICK_NULLS: Final = 20
"""A server that answers null so often at once does not wait; it is not asked without pause."""

_log = logging.getLogger(__name__)

Execute = Callable[[HostSpec, Stop, Voices], Awaitable[TaskReport]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the loop works with."""

    api: TaskApi
    reporter: Reporter
    outbox: CallbackOutbox
    execute: Execute
    groups: tuple[str, ...]
    clock: Clock
    jitter: Callable[[float], float]
    pause: Pause = asyncio.sleep


class Polling:
    """One polling runner: `run` polls until `leave` is called."""

    def __init__(self, settings: PollSettings, runner: RunnerId, desk: Desk) -> None:
        self._settings = settings
        self._desk = desk
        self._query = self._asked(runner)
        self._held: dict[TaskId, Held] = {}
        self._doing: set[asyncio.Task[None]] = set()
        self._leaving = asyncio.Event()
        self._freed = asyncio.Event()
        self._heard = asyncio.Event()
        about = {
            "runnerId": runner,
            "name": settings.name,
            "version": clawplane.__version__,
            "capabilities": list(desk.groups),
            "labels": dict(settings.labels),
            "slots": settings.host.slots,
        }
        self._beats = Heartbeats(desk.api, about, self._held, monotonic=desk.clock.monotonic, back=self._back)

    def _back(self) -> None:
        """Hear that the server can be reached again: whoever waits because it could not be goes on."""
        self._heard.set()
        self._desk.reporter.hurry()

    def _asked(self, runner: RunnerId) -> dict[str, str]:
        settings = self._settings
        asked = {
            "wait": str(settings.wait_ms),
            "runnerId": runner,
            "name": settings.name,
            "capabilities": ",".join(self._desk.groups),
            "heartbeats": "1",
        }
        if settings.labels:
            asked["labels"] = ",".join(f"{key}={value}" for key, value in sorted(settings.labels.items()))
        if not settings.direct:
            asked["callbacks"] = "server"
        return asked

    def leave(self) -> None:
        """Ask for no more, end what runs and let `run` return; twice is fine."""
        self._leaving.set()
        for held in self._held.values():
            held.stop.leave()

    async def run(self) -> None:
        """Poll and do tasks until asked to leave and everything has ended, which takes a few seconds at most."""
        self._beats.start()
        polling = asyncio.create_task(self._poll_for_ever())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait([polling, leaving], return_when=asyncio.FIRST_COMPLETED)
            if polling.done():
                polling.result()  # a defect: let it end this process
        finally:
            leaving.cancel()
            polling.cancel()
            await asyncio.gather(polling, leaving, return_exceptions=True)
            self.leave()
            await self._end()

    async def _end(self) -> None:
        if self._doing:
            await asyncio.wait(self._doing, timeout=LEAVE_SECONDS)
        for task in self._doing:
            task.cancel()
        await asyncio.gather(*self._doing, return_exceptions=True)
        await self._desk.reporter.settle(SETTLE_SECONDS)
        await self._beats.close()

    async def _poll_for_ever(self) -> None:
        failures = quick = 0
        certain = False
        clock, settings = self._desk.clock, self._settings
        while True:
            if len(self._held) >= settings.host.slots:
                await pause_or(self._desk.pause, self._freed, settings.busy_ms / 1000)
                continue
            began = clock.monotonic()
            try:
                if not certain:
                    await self._beats.take_stock(self._desk.reporter.claims())
                    certain = True
                task = await self._desk.api.poll(self._query, seconds=settings.wait_ms / 1000)
            except Unauthorized as error:
                _log.error("%s", error)
                await self._desk.pause(UNAUTHORIZED_SECONDS)
                continue
            except TaskApiFailed as error:
                certain = False  # a task may have been in the answer
                failures += 1
                wait = self._desk.jitter(min(FAILURE_SECONDS * failures, LONGEST_SECONDS))
                _log.warning("No task from the server (%d in a row), next poll in %.1f s: %s", failures, wait, error)
                await pause_or(self._desk.pause, self._heard, wait)
                continue
            if failures:
                self._desk.reporter.hurry()
            failures = 0
            if task is not None:
                self._begin(task)
            quick = quick + 1 if task is None and clock.monotonic() - began < _QUICK_SECONDS else 0
            if quick > _QUICK_NULLS:
                await self._desk.pause(settings.busy_ms / 1000)

    def _begin(self, task: PolledTask) -> None:
        if task.claim is not None:
            self._beats.claimed()
        held = self._held.get(task.id)
        if held is not None:
            _log.warning("Task %s was given again while it runs; it is done once", task.id)
            held.claim = task.claim
            return
        self._held[task.id] = held = Held(task.claim)
        doing = asyncio.create_task(self._do(task, held))
        self._doing.add(doing)
        doing.add_done_callback(self._doing.discard)

    async def _do(self, task: PolledTask, held: Held) -> None:
        began = self._desk.clock.monotonic()
        try:
            report = await self._report_of(task, held)
            if held.stop.why == "drop":
                return
            seconds = self._desk.clock.monotonic() - began
            go = await self._callback(task, report, seconds) if self._tells(task) else None
            await self._desk.reporter.put(task.id, report, claim=held.claim, attempt=task.attempt)
            if go is not None:
                await self._desk.reporter.settle(SETTLE_SECONDS)  # the trail shows the end before its callback
                go()
        except Exception:  # one task's defect may neither end the loop nor keep its slot
            _log.exception("Task %s could not be ended", task.id)
        finally:
            del self._held[task.id]
            self._freed.set()

    async def _report_of(self, task: PolledTask, held: Held) -> TaskReport:
        if task.spec is None:
            return TaskReport(exit_code=1, error=task.problem, stderr=task.problem)
        _log.info("Task %s (%s) begins", task.id, task.spec.type.value)
        try:
            report = await self._desk.execute(
                task.spec, held.stop, Voices(channel=task.channel or None, ask=self._asks(task, held))
            )
        except asyncio.CancelledError:  # it did not end in time, and nothing of it runs now
            killed = TaskReport(exit_code=_KILLED, error=f"Exit code {_KILLED}", stderr="The runner was stopped.")
            await self._desk.reporter.put(task.id, killed, claim=held.claim, attempt=task.attempt)
            raise
        _log.info("Task %s ended with exit code %s", task.id, report.exit_code)
        return report

    def _asks(self, task: PolledTask, held: Held) -> AskPerson | None:
        """Return whom an agent can ask; a server that gives no claims knows nobody."""
        if held.claim is None:
            return None
        return PolledAsks(self._desk.api, task.id, lambda: held.claim, self._desk.pause).ask

    def _tells(self, task: PolledTask) -> bool:
        return self._settings.direct and task.direct_callback and bool(task.channel) and not task.server_tells

    async def _callback(self, task: PolledTask, report: TaskReport, seconds: float) -> Callable[[], None]:
        spec = task.spec
        if spec is None:
            raise AssertionError("only tasks that were understood have callbacks")
        about: Mapping[str, Any] = {**task.dispatch, "taskStatus": "completed" if report.succeeded else "failed"}
        outcome = "answer" if report.succeeded else "failure-message"
        return await self._desk.outbox.put(
            task.id,
            task.channel,
            message_of(spec.type, task.dispatch.get("sessionId"), report, seconds=seconds),
            token=task.token,
            about=about,
            details={"outcome": outcome, "durationMs": round(seconds * 1000)},
        )
