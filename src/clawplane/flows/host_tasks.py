"""Host tasks: submit, wait for the result, hear reports, cancel, approve, retry.

Everything a caller is told was committed before. A task that is submitted while a poll waits is offered to it by the
same commit; one for a linked runner goes out with the lease flow's next tick, as runs and sessions do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Sequence
from typing import Final

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.errors import Conflict, NotFound
from clawplane.domain.host_ports import (
    AgentSessions,
    Claimed,
    HostTasks,
    Outbox,
    Poll,
    Reported,
    Retention,
    Stock,
    Submitted,
    TaskCounts,
    TaskEvents,
    TaskFilter,
)
from clawplane.domain.host_tasks import (
    AGENT_GRACE_MS,
    LEASE_GRACE_MS,
    RUNNER_TIMEOUT_MS,
    Approval,
    Command,
    HostTask,
    NewTask,
    OnLoss,
    Prompt,
    StoredResult,
    Target,
    TaskEvent,
    TaskId,
    TaskReport,
    TaskStatus,
    TaskType,
    Work,
)
from clawplane.domain.host_trail import event_of
from clawplane.domain.ids import POLLS, JobId, JobIds, RunnerId
from clawplane.domain.leases import LeaseView
from clawplane.domain.sealing import Sealing
from clawplane.domain.tool_uses import Decide, ToolUse
from clawplane.domain.waiting import first_of
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels, tool_uses
from clawplane.flows.explain import Explanation, explain
from clawplane.flows.leases import Leases
from clawplane.flows.polled_questions import PolledQuestions
from clawplane.flows.pollers import Pollers
from clawplane.flows.questions import AnswerRules, Questions

_AGENTS: Final = {"claude": TaskType.CLAUDE, "codex": TaskType.CODEX, "gemini": TaskType.GEMINI}


class HostRules(msgspec.Struct, frozen=True, kw_only=True):
    """How this installation treats host tasks.

    on_loss: by task type, `requeue` where nothing is said; server_callbacks: whether the control plane also sends the
    callbacks of tasks that polls took; default_channel: where they go that name no channel; public_url and
    answer_seconds: where and how long people can answer, see flows/questions.
    """

    on_loss: dict[TaskType, OnLoss] = {}
    server_callbacks: bool = False
    default_channel: str = ""
    retention: Retention = Retention()
    public_url: str = ""
    answer_seconds: int = 86_400


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for, checked by the edge. `delay_ms` from now; `callback_token` in clear, sealed here."""

    work: Work
    priority: int = 0
    delay_ms: int = 0
    on_loss: OnLoss | None = None
    approval: bool = False
    target: Target = Target()
    cwd: str | None = None
    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    callback_channel: str | None = None
    callback_token: str | None = None
    callback_url: str = ""
    arrived_at: str = ""
    """The address of this server as the request reached it."""
    idempotency_key: str = ""
    request_digest: str = ""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch got: the result, already consumed, or the state in which the task is."""

    result: StoredResult | None = None
    status: TaskStatus | None = None


class HostWork:
    """The flow of host tasks; the edges and the tools call it."""

    def __init__(
        self,
        *,
        tasks: HostTasks,
        events: TaskEvents,
        conversations: AgentSessions,
        outbox: Outbox,
        pollers: Pollers,
        leases: Leases,
        sealing: Sealing,
        wakeups: Wakeups,
        clock: Clock,
        ids: JobIds,
        rules: HostRules,
    ) -> None:
        self._tasks = tasks
        self.events = events
        self.conversations = conversations
        self.pollers = pollers
        self._leases = leases
        self._sealing = sealing
        self._wakeups = wakeups
        self._clock = clock
        self._ids = ids
        self.rules = rules
        answers = AnswerRules(
            public_url=rules.public_url, seconds=rules.answer_seconds, default_channel=rules.default_channel
        )
        self.questions = Questions(sealing, clock, answers)
        self.polled = PolledQuestions(outbox, self.questions, wakeups, clock)
        self._closing = asyncio.get_running_loop().create_future()

    async def leave(self) -> None:
        """Answer everybody who waits with what there is: the server is leaving. Safe to call twice."""
        if not self._closing.done():
            self._closing.set_result(None)
        self.polled.leave()
        await self.pollers.close()

    # submitting

    async def submit(self, request: TaskRequest, *, owner: str) -> Submitted:
        """Store a task and let whoever waits have it; raises Conflict on a reused idempotency key."""
        now = self._clock.now_ms()
        new = self.questions.before(self._new_task(request, owner, now), arrived_at=request.arrived_at)
        storing = asyncio.ensure_future(self._tasks.submit(new, now=now))
        self.pollers.look()  # its claim is written behind this task, in the same commit
        submitted = await storing
        if submitted.task.not_before is not None:
            self._leases.not_later_than(submitted.task.not_before)
        if not submitted.replayed:
            self._changed(submitted.task.id)
        if new.questions:
            self._wakeups.notify(channels.CALLBACKS)
        return submitted

    def _new_task(self, request: TaskRequest, owner: str, now: int) -> NewTask:
        work = request.work
        type_ = type_of(work)
        seal = request.callback_token
        return NewTask(
            id=TaskId(str(uuid.uuid4())),
            job=JobId(self._ids.next(now)),
            owner=owner,
            type=type_,
            work=work,
            created_at=now,
            timeout_ms=lease_ms_of(work),
            session_id=work.session_id if isinstance(work, Prompt) else None,
            priority=request.priority,
            not_before=now + request.delay_ms if request.delay_ms > 0 else None,
            on_loss=request.on_loss or self.rules.on_loss.get(type_, OnLoss.REQUEUE),
            approval=Approval.WAITING if request.approval else Approval.NOT_NEEDED,
            target=request.target,
            cwd=request.cwd,
            env=request.env,
            labels=request.labels,
            callback_channel=request.callback_channel,
            callback_token=None if seal is None else self._sealing.seal(seal),
            callback_url=request.callback_url,
            deliver_to=self._deliver_to(request),
            idempotency=(request.idempotency_key, request.request_digest) if request.idempotency_key else None,
        )

    def _deliver_to(self, request: TaskRequest) -> str | None:
        channel = request.callback_channel or self.rules.default_channel
        return channel or ("" if self.rules.server_callbacks else None)

    # fetching

    async def fetch(self, task: TaskId, *, seconds: float, gone: Awaitable[object]) -> Fetched:
        """Consume the result, waiting for it for up to `seconds` while the client is there; raises NotFound at once.

        The caller must `put_back` what it could not deliver.
        """
        wakeup = self._wakeups.listen(channels.host_task(task))
        leaving = asyncio.ensure_future(gone)
        until = self._clock.monotonic() + seconds
        try:
            outlook = await self._tasks.outlook(task)
            while True:
                if outlook.ready and not leaving.done():
                    result = await self._tasks.take_result(task, now=self._clock.now_ms())
                    if result is not None:
                        return Fetched(result=result)
                    outlook = await self._tasks.outlook(task)
                if outlook.status is None and not outlook.ready:
                    raise NotFound("Task not found")
                left = until - self._clock.monotonic()
                if left <= 0 or leaving.done() or self._closing.done():
                    return Fetched(status=outlook.status or TaskStatus.RUNNING)
                await first_of(wakeup.told(), leaving, self._closing, seconds=left)
                await wakeup.wait(0)
                # what wakes is nearly always the result itself, so it is asked for without another look
                outlook = msgspec.structs.replace(outlook, ready=True)
        finally:
            wakeup.close()
            leaving.cancel()

    async def put_back(self, task: TaskId) -> None:
        """Let a result be fetched again whose answer did not arrive."""
        await self._tasks.put_back(task)
        self._wakeups.notify(channels.host_task(task))

    async def result(self, task: TaskId) -> StoredResult | None:
        """Return a result without consuming it."""
        return await self._tasks.result(task)

    # the Task API's runners

    async def poll(self, poll: Poll, *, seconds: float, gone: Awaitable[object]) -> Claimed | None:
        """Return a task for a poll, or None when the time is up."""
        delivers = poll.server_delivers or self.rules.server_callbacks
        claimed = await self.pollers.poll(
            msgspec.structs.replace(poll, server_delivers=delivers), seconds=seconds, gone=gone
        )
        if claimed is not None:
            work = claimed.task.work
            self._leases.not_later_than((claimed.task.started_at or 0) + lease_ms_of(work))
            self._wakeups.notify(channels.EVENTS)
        return claimed

    async def undeliver(self, claimed: Claimed) -> None:
        """Take a claim back whose answer did not reach the poller."""
        await self.pollers.undo(claimed)

    async def take_stock(self, runner: RunnerId, number: int, held: Sequence[tuple[TaskId, int]]) -> Stock:
        """Hear all that a polling runner has while no poll of its is open; what it has lost goes by its policy."""
        self.pollers.give_up(runner)  # first: nothing may be claimed for a poll of its past any more
        stock = await self._tasks.take_stock(runner, number, held, now=self._clock.now_ms())
        for task in stock.lost:
            self._changed(task)
        if stock.lost:
            self._wakeups.notify(channels.CALLBACKS)
        return stock

    def unseal(self, token: bytes | None) -> str | None:
        """Return a bot token in clear, for the runner that needs it."""
        return None if token is None else self._sealing.unseal(token)

    async def report(self, task: TaskId, report: TaskReport) -> Reported:
        """Hear a report of the Task API's wire; the first terminal one wins."""
        reported = await self._tasks.report(task, report, now=self._clock.now_ms())
        self._leases.cancel(reported.leases, "The task was reported by another runner.")
        self._changed(task)
        self._wakeups.notify(channels.CALLBACKS)
        return reported

    async def reported_event(self, event: TaskEvent) -> TaskEvent:
        """Keep a record that a runner tells of."""
        stored = await self.events.append(event)
        self._wakeups.notify(channels.EVENTS)
        return stored

    # additive

    async def find(self, task: TaskId) -> HostTask:
        """Return a task; raises NotFound."""
        found = await self._tasks.find(task)
        if found is None:
            raise NotFound(f"There is no host task {task!r}.", hint="List them with `clawplane task list`.")
        return found

    async def page(self, filter_: TaskFilter, *, limit: int, before: JobId | None) -> list[HostTask]:
        """Return tasks, newest first."""
        return await self._tasks.page(filter_, limit=limit, before=before)

    async def cancel(self, task: TaskId, *, by: str) -> HostTask:
        """End a task that waits, or stop one that runs; raises NotFound, and Conflict when it has ended."""
        cancelled = await self._tasks.cancel(task, f"Cancelled by {by}.", now=self._clock.now_ms())
        if cancelled is None:
            ended = await self.find(task)
            raise Conflict(f"The task has ended: {ended.status}.", hint="Only what waits or runs can be cancelled.")
        found, leases = cancelled
        await self._stop(found, leases)
        self._changed(task)
        self._wakeups.notify(channels.CALLBACKS)
        return await self.find(task)

    async def _stop(self, task: HostTask, leases: Sequence[LeaseView]) -> None:
        """Tell linked runners to stop; what a mere poller runs cannot be reached, so its task ends here and now."""
        self._leases.cancel(leases, task.reason or "cancelled")
        if any(lease.confirmed and lease.runner.startswith(POLLS) for lease in leases):
            told = TaskReport(exit_code=-1, error="Cancelled", stderr="Cancelled")
            await self._tasks.report(task.id, told, now=self._clock.now_ms())

    async def approve(self, task: TaskId, *, given: bool, by: str) -> HostTask:
        """Let a task start that waits for a yes, or fail it; raises NotFound, and Conflict when it does not wait."""
        found = await self._tasks.approve(task, given=given, by=by, now=self._clock.now_ms())
        if found is None:
            await self.find(task)
            raise Conflict("The task does not wait for an approval.")
        self._changed(task)
        self._wakeups.notify(channels.CALLBACKS)
        return found

    async def retry(self, task: TaskId) -> HostTask:
        """Submit an ended task again as a new one; raises NotFound, and Conflict while it has not ended."""
        now = self._clock.now_ms()
        new, job = TaskId(str(uuid.uuid4())), JobId(self._ids.next(now))
        old = await self.find(task)
        asks = () if old.approval is Approval.NOT_NEEDED else self.questions.again(old, new)
        again = await self._tasks.retry(task, new, job, now=now, questions=asks)
        if again is None:
            found = await self.find(task)
            raise Conflict(f"The task is {found.status}.", hint="Cancel it first, or wait for its end.")
        self._changed(again.id)
        if asks:
            self._wakeups.notify(channels.CALLBACKS)
        return again

    async def counts(self) -> TaskCounts:
        """Return the counts of `/tasks/stats`."""
        return await self._tasks.counts()

    async def await_result(self, task: TaskId, *, seconds: float) -> StoredResult | None:
        """Return a result without consuming it, as soon as it is there; None when `seconds` are over first."""
        wakeup = self._wakeups.listen(channels.host_task(task))
        until = self._clock.monotonic() + seconds
        try:
            while True:
                result = await self._tasks.result(task)
                left = until - self._clock.monotonic()
                if result is not None or left <= 0 or self._closing.done():
                    return result
                await first_of(wakeup.told(), self._closing, seconds=left)
                await wakeup.wait(0)
        finally:
            wakeup.close()

    async def explain(self, task: HostTask) -> Explanation:
        """Say why a task stands where it stands."""
        waiting = await self._tasks.waiting(task.id)
        runners, parked = await self._leases.runners(), self.pollers.reaches
        return explain(task, waiting, runners, parked=parked, now=self._clock.now_ms())

    async def tool_uses(self, task: HostTask, *, reachable: bool = False) -> tuple[ToolUse, ...]:
        """Return the tool uses of a running agent that wait for a person; see flows/tool_uses."""
        return await tool_uses.waiting_of(self._leases, self.polled, task, reachable=reachable)

    async def decide_tool(self, task: HostTask, tool_use: str, *, allowed: bool, by: str, reason: str = "") -> None:
        """Let a tool use go on, or refuse it; recorded with who said so. Raises Conflict when it does not wait."""
        told = reason or f"{'Allowed' if allowed else 'Refused'} by {by}."
        await tool_uses.decide(self._leases, self.polled, task, Decide(id=tool_use, allowed=allowed, reason=told))
        word = "task.tool-approved" if allowed else "task.tool-refused"
        about = {"toolUse": tool_use, "by": by}
        await self.reported_event(event_of(task, word, at=self._clock.now_ms(), details=about))

    async def waits(self) -> dict[str, tuple[int, int]]:
        """Return, per capability, how many wait and since when the oldest does."""
        return await self._tasks.waits()

    def _changed(self, task: TaskId) -> None:
        self._wakeups.notify(channels.host_task(task))
        self._wakeups.notify(channels.log(task))  # who follows the output sees the end
        self._wakeups.notify(channels.READY)
        self._wakeups.notify(channels.EVENTS)


def type_of(work: Work) -> TaskType:
    """Return the task type of a work."""
    if isinstance(work, Prompt):
        return _AGENTS[work.cli]
    return TaskType(str(type(work).__struct_config__.tag))


def lease_ms_of(work: Work) -> int:
    """Return how long an attempt's lease may last: what the runner allows itself, and a grace."""
    if isinstance(work, Prompt):
        return work.timeout + AGENT_GRACE_MS + LEASE_GRACE_MS
    own = work.timeout if isinstance(work, Command) else RUNNER_TIMEOUT_MS
    return own + LEASE_GRACE_MS
