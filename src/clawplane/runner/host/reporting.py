"""Report ends of tasks until the server has heard of them: first on disk, then over the wire.

Who runs. `put` writes the report to the spool and returns; one loop sends what waits, oldest first. As long as the
server is the trouble (unreachable, 5xx, 401, 429) the whole loop waits, longer and longer. A report that is itself
refused is cut to half when it was too large, and else tried again rarely, behind the others.

Rules that never break: a report leaves the disk only when the server has answered it with 2xx; and no other report
is ever made up for it, whatever happens on the way.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from clawplane.domain.host_tasks import TaskId, TaskReport
from clawplane.runner.host.disk_turns import DiskTurns
from clawplane.runner.host.output import fitted
from clawplane.runner.host.pausing import Pause, pause_or
from clawplane.runner.host.spool import Spool
from clawplane.runner.host.task_api import TaskApi, TaskApiFailed

MOST_BYTES: Final = (5 << 20) - (64 << 10)
"""What a Task API takes in one request, less some room."""
FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 60.0
REFUSED_WAIT: Final = 300.0
_LEAST_BYTES: Final = 64 << 10
_TOO_LARGE: Final = 413

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A report that is not acknowledged; `claim` as `Reporter.claims` has it, `due` on the monotonic clock."""

    body: bytes
    claim: tuple[TaskId, int] | None
    due: float = 0.0


class Reporter:
    """Reports of one runner. `jitter` turns a wait into a nearby one, so that many runners do not come at once."""

    def __init__(
        self,
        api: TaskApi,
        spool: Spool,
        *,
        pause: Pause = asyncio.sleep,
        jitter: Callable[[float], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._api = api
        self._spool = spool
        self._pause = pause
        self._jitter = jitter
        self._monotonic = monotonic
        self._waiting: dict[str, _Waiting] = {}
        self._disk = DiskTurns()
        self._changed = asyncio.Event()
        self._hurried = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Begin with what an earlier life of this runner could not report; return how many reports that is."""
        for name, body in (await self._disk.do(self._spool.load)).items():
            self._waiting[name] = _Waiting(body, await self._disk.do(_claim_of, body))
        if self._waiting:
            self._empty.clear()
        self._changed.set()
        self._loop = asyncio.create_task(self._run())
        return len(self._waiting)

    async def put(self, task: TaskId, report: TaskReport, **additive: Any) -> None:
        """Keep a report durably and begin to send it; what the disk refuses lasts as long as this process."""
        name = f"task-{hashlib.sha256(task.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"
        body = await self._disk.do(_body, task, report, additive)
        try:
            await self._disk.do(self._spool.put, name, body)
        except OSError as error:
            _log.error("The report of task %s could not be spooled: %s", task, error)
        claim = additive.get("claim")
        self._waiting[name] = _Waiting(body, (task, claim) if isinstance(claim, int) else None)
        self._empty.clear()
        self._changed.set()

    def claims(self) -> list[tuple[TaskId, int]]:
        """Return the tasks, each with its claim, whose reports are not acknowledged."""
        return [each.claim for each in self._waiting.values() if each.claim is not None]

    def hurry(self) -> None:
        """Hear that the server can be reached: what waits because it could not be is sent now."""
        self._hurried.set()

    async def settle(self, seconds: float) -> bool:
        """Wait until everything is acknowledged, at most that long; True when it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop sending; what is not acknowledged stays on disk."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._disk.close()

    async def _run(self) -> None:
        failures = 0
        while True:
            name = await self._next()
            waiting = self._waiting[name]
            try:
                await self._api.report(waiting.body)
            except TaskApiFailed as error:
                if error.final:
                    await self._refused(waiting, error)
                    continue
                failures += 1
                wait = min(FIRST_WAIT * 2 ** min(failures - 1, 20), LONGEST_WAIT)
                _log.warning("A report waits, for the server did not take it: %s", error)
                await pause_or(self._pause, self._hurried, self._jitter(wait))
                continue
            failures = 0
            await self._acknowledged(name, waiting)

    async def _next(self) -> str:
        """Return the report that is to be sent next, waiting for it."""
        while True:
            self._changed.clear()
            now = self._monotonic()
            due = min(self._waiting.items(), key=lambda each: each[1].due, default=None)
            if due is None:
                self._empty.set()
                await self._changed.wait()
                continue
            name, at = due[0], due[1].due
            if at <= now:
                return name
            try:
                async with asyncio.timeout(at - now):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _acknowledged(self, name: str, waiting: _Waiting) -> None:
        if self._waiting[name] is not waiting:
            return  # the task was done again meanwhile: that report is another one
        del self._waiting[name]
        try:
            await self._disk.do(self._spool.remove, name)
        except OSError as error:
            _log.warning("A report that was acknowledged stays in the spool: %s", error)

    async def _refused(self, waiting: _Waiting, error: TaskApiFailed) -> None:
        """Try a report otherwise or later; one that has taken its place meanwhile is not touched."""
        if error.status == _TOO_LARGE and len(waiting.body) > _LEAST_BYTES:
            smaller = await self._disk.do(_halved, waiting.body)
            if len(smaller) < len(waiting.body):
                waiting.body, waiting.due = smaller, 0.0
                return
        _log.error("A report is refused and kept: %s", error)
        waiting.due = self._monotonic() + REFUSED_WAIT


def _body(task: TaskId, report: TaskReport, additive: dict[str, Any]) -> bytes:
    fit = fitted(report, MOST_BYTES)
    told = {
        "taskId": task,
        "stdout": fit.stdout,
        "stderr": fit.stderr,
        "exitCode": fit.exit_code,
        "error": fit.error,
        "metadata": fit.metadata,
        "duration": fit.duration,
        **{name: value for name, value in additive.items() if value is not None},
    }
    return json.dumps(told, ensure_ascii=True).encode()


def _claim_of(body: bytes) -> tuple[TaskId, int] | None:
    """Return the task of a report and the claim under which it was done; None for a server without claims."""
    try:
        told = json.loads(body)
        return TaskId(str(told["taskId"])), int(told["claim"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _halved(body: bytes) -> bytes:
    """Return a report whose texts are cut to half of it; the same when it cannot be read."""
    try:
        told = json.loads(body)
        report = TaskReport(
            stdout=str(told["stdout"]), stderr=str(told["stderr"]), error=told["error"], metadata=dict(told["metadata"])
        )
    except (ValueError, TypeError, KeyError):
        return body
    fit = fitted(report, len(body) // 2)
    return json.dumps({**told, "stdout": fit.stdout, "stderr": fit.stderr, "metadata": fit.metadata}).encode()
