"""Host tasks as a client sees them: submit, follow, decide about; runners and the trail."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NotRequired, TypedDict

from clawplane.client.following import Following, LogEntry, Patience
from clawplane.client.http import Http, segment
from clawplane.domain.errors import Unavailable

ENDED = frozenset({"completed", "failed"})
LONGEST_WAIT = 60
"""Seconds that the control plane holds a question for a result open."""


class HostTask(TypedDict):
    """A task; times in ms since 1970. More members are there, see the API's reference."""

    id: str
    type: str
    status: str
    summary: str
    created_at: int
    started_at: int | None
    completed_at: int | None
    session_id: str | None
    approval: str
    runner: str | None
    attempt: int
    reason: str


class Submitted(TypedDict):
    """A task that was taken; `replayed` when its idempotency key had made it before."""

    task: HostTask
    replayed: bool


class TaskPage(TypedDict):
    """Tasks, newest first; `next` goes into `before`."""

    list: list[HostTask]
    next: str | None


class Result(TypedDict):
    """How a task ended; only the exit code 0 is success."""

    stdout: str
    stderr: str
    exit_code: Any
    error: Any
    metadata: dict[str, Any]
    duration: Any


class TaskResult(TypedDict):
    """A task with its result, None while there is none."""

    task: HostTask
    result: Result | None


class Explanation(TypedDict):
    """Why a task stands where it stands."""

    status: str
    code: str
    reason: str
    hint: str


class ToolUse(TypedDict):
    """A tool use that waits for a person."""

    id: str
    tool: str
    detail: str
    cwd: str
    asked_at: int


class TaskEvent(TypedDict):
    """One record of the trail."""

    seq: int
    type: str
    created_at: int
    task_id: str | None
    task_type: str | None
    task_status: str | None
    details: Any
    source: str


class Runner(TypedDict):
    """A runner; `last_seen` in ms since 1970."""

    id: str
    name: str
    version: str
    capabilities: list[str]
    labels: dict[str, str]
    slots: dict[str, int]
    connected: bool
    draining: bool
    last_seen: int


class HostRunner(TypedDict):
    """What a runner takes of host tasks, and how many it has."""

    id: str
    kind: str
    takes: list[str]
    running: int
    slots: int


class Trimmed(TypedDict):
    """What was removed from the trail."""

    expired: int
    overflow: int
    count: int
    vacuumed: bool


class _Runners(TypedDict):
    list: list[Runner]


class _HostRunners(TypedDict):
    list: list[HostRunner]
    parked_polls: NotRequired[int]


class _Events(TypedDict):
    list: list[TaskEvent]


class _ToolUses(TypedDict):
    list: list[ToolUse]


class HostTasksClient:
    """Host tasks over HTTP; needs the scope `host`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def submit(self, body: dict[str, Any]) -> Submitted:
        """Submit a task; `body` as the API's reference says."""
        return await self._http.ask("POST", "/v1/host/tasks", Submitted, body=body)

    async def page(self, **filters: Any) -> TaskPage:
        """Return tasks, newest first; filters are status, type, session_id, runner, before and limit."""
        return await self._http.ask("GET", "/v1/host/tasks", TaskPage, query=filters)

    async def show(self, task: str) -> HostTask:
        """Return a task with what it asks for."""
        return await self._http.ask("GET", _path(task), HostTask)

    async def result(self, task: str, *, wait: int = 0) -> TaskResult:
        """Return a task with its result, waiting for it for up to `wait` seconds, at most LONGEST_WAIT."""
        query = {"wait": wait or None}
        timeout = LONGEST_WAIT + 30.0 if wait else None
        answer = await self._http.request("GET", f"{_path(task)}/result", query=query, timeout=timeout)
        return self._http.shaped(answer, TaskResult)

    async def explain(self, task: str) -> Explanation:
        """Return why a task stands where it stands."""
        return await self._http.ask("GET", f"{_path(task)}/explain", Explanation)

    async def act(self, task: str, what: str, **body: Any) -> HostTask:
        """Do something with a task: cancel, approve, refuse or retry; retry returns the new task."""
        return await self._http.ask("POST", f"{_path(task)}/{what}", HostTask, body=body)

    async def tool_uses(self, task: str) -> list[ToolUse]:
        """Return the tool uses of a running agent that wait for a person."""
        return (await self._http.ask("GET", f"{_path(task)}/tool-uses", _ToolUses))["list"]

    def log(self, task: str, *, after: int = 0) -> AsyncGenerator[LogEntry, None]:
        """Yield what a task has printed so far."""
        return self._http.lines(f"{_path(task)}/log", LogEntry, query={"after": after})

    def follow(
        self, task: str, *, on_lost: Callable[[Unavailable], None], after: int = 0
    ) -> AsyncGenerator[LogEntry, None]:
        """Yield what a task prints until it has ended, over restarts of the server."""

        async def ended() -> bool:
            return (await self.show(task))["status"] in ENDED

        return Following(self._http, f"{_path(task)}/log", ended, on_lost=on_lost).entries(after)

    async def events(self, **filters: Any) -> list[TaskEvent]:
        """Return records, oldest first; filters are after, task, type and limit."""
        return (await self._http.ask("GET", "/v1/host/events", _Events, query=filters))["list"]

    async def follow_events(
        self,
        *,
        after: int,
        on_lost: Callable[[Unavailable], None],
        patience: Patience | None = None,
        **filters: Any,
    ) -> AsyncGenerator[TaskEvent, None]:
        """Yield records behind `after` for ever, over restarts of the server; raises Unavailable when it stays away."""
        waits = patience or Patience()
        lost_at: float | None = None
        pause = waits.first_pause
        while True:
            query = {**filters, "follow": "true", "after": after}
            try:
                async with aclosing(self._http.lines("/v1/host/events", TaskEvent, query=query)) as records:
                    async for record in records:
                        lost_at, pause, after = None, waits.first_pause, record["seq"]
                        yield record
            except Unavailable as error:
                now = waits.now()
                if lost_at is None:
                    lost_at = now
                    on_lost(error)
                elif now - lost_at > waits.seconds:
                    raise
            await waits.pause(pause)
            pause = min(pause * 2, waits.longest_pause)

    async def trim_events(self, *, vacuum: bool) -> Trimmed:
        """Trim the trail to its bounds now."""
        return await self._http.ask("POST", "/v1/host/events/maintenance", Trimmed, body={"vacuum": vacuum})

    async def runners(self) -> list[Runner]:
        """Return every runner ever heard of, newest first."""
        return (await self._http.ask("GET", "/v1/runners", _Runners))["list"]

    async def host_runners(self) -> list[HostRunner]:
        """Return the runners that take host tasks."""
        return (await self._http.ask("GET", "/v1/host/runners", _HostRunners))["list"]


def _path(task: str) -> str:
    return f"/v1/host/tasks/{segment(task)}"
