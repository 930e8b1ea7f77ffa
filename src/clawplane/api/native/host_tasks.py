"""Submit host tasks, look at them, follow their output, and decide about them.

A task belongs to the owner of the key that submitted it; admins see all. A task of somebody else is unknown.
"""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from clawplane.api.calls import Call, Parameter
from clawplane.api.native import host_shapes as shapes
from clawplane.api.native.host_requests import DecisionBody, request_of
from clawplane.api.native.logs import log_stream
from clawplane.domain.access import Scope
from clawplane.domain.errors import InvalidSchema, NotFound, NotImplementedHere
from clawplane.domain.host_ports import TaskFilter
from clawplane.domain.host_tasks import HostTask, TaskId, TaskStatus, TaskType
from clawplane.domain.ids import JobId
from clawplane.flows.host_tasks import HostWork

_MOST_WAIT: Final = 60
_PAGE: Final = 50
_MOST_LISTED: Final = 500
_LONGEST_ID: Final = 200
_MOST_JOB: Final = 2**53

STATUS: Final = Parameter(
    name="status",
    kind="string",
    description="Only tasks in this state.",
    choices=tuple(each.value for each in TaskStatus),
)
TYPE: Final = Parameter(
    name="type", kind="string", description="Only tasks of this type.", choices=tuple(each.value for each in TaskType)
)
SESSION: Final = Parameter(name="session_id", kind="string", description="Only tasks of this conversation.")
RUNNER: Final = Parameter(name="runner", kind="string", description="Only tasks that this runner id has or had.")
BEFORE: Final = Parameter(name="before", kind="string", description="Go on behind a page: its `next`.")
LIMIT: Final = Parameter(
    name="limit", kind="integer", description="How many.", default=_PAGE, minimum=1, maximum=_MOST_LISTED
)
WAIT: Final = Parameter(
    name="wait", kind="integer", description="Seconds to wait for the end.", default=0, minimum=0, maximum=_MOST_WAIT
)


def host_of(call: Call) -> HostWork:
    """Return the flow of host tasks; raises NotImplementedHere where there is none."""
    if call.flows.host is None:
        raise NotImplementedHere("This control plane takes no host tasks.")
    return call.flows.host


async def task_of(call: Call) -> HostTask:
    """Return the task that the path names, if the caller may see it; raises NotFound."""
    task_id = call.path("taskId")
    if len(task_id) > _LONGEST_ID:
        raise _unknown(task_id[:40])
    return await seen(call, TaskId(task_id))


async def seen(call: Call, task_id: TaskId) -> HostTask:
    """Return a task that the caller may see; raises NotFound."""
    task = await host_of(call).find(task_id)
    if task.owner != call.caller.owner and not call.caller.may(Scope.ADMIN):
        raise _unknown(task_id)
    return task


def _unknown(task_id: str) -> NotFound:
    return NotFound(f"There is no host task {task_id!r}.", hint="List them with `clawplane task list`.")


async def submit(call: Call) -> Response:
    """Take a task; a replayed one answers 200, a new one 201."""
    host = host_of(call)
    made = await host.submit(await request_of(call), owner=call.caller.owner)
    body = shapes.Submitted(task=shapes.task_body(made.task), replayed=made.replayed)
    return shapes.reply(call, body, status=200 if made.replayed else 201)


async def list_tasks(call: Call) -> Response:
    """Return tasks, newest first."""
    limit = call.number("limit", _PAGE, low=1, high=_MOST_LISTED) or _PAGE
    before = call.number("before", 0, low=0, high=_MOST_JOB)
    status, type_ = _choice(call, STATUS), _choice(call, TYPE)
    filter_ = TaskFilter(
        owner=None if call.caller.may(Scope.ADMIN) else call.caller.owner,
        status=TaskStatus(status) if status else None,
        type=TaskType(type_) if type_ else None,
        session_id=call.text("session_id"),
        runner=call.text("runner"),
    )
    page = await host_of(call).page(filter_, limit=limit, before=JobId(before) if before else None)
    following = str(page[-1].job) if len(page) == limit else None
    return shapes.reply(call, shapes.HostTaskPage([shapes.task_body(task) for task in page], following))


def _choice(call: Call, parameter: Parameter) -> str:
    value = call.text(parameter.name)
    if value and value not in parameter.choices:
        told = ", ".join(parameter.choices)
        raise InvalidSchema(f"{parameter.name}: {value[:40]!r} is unknown.", hint=f"Use one of {told}.")
    return value


async def get_task(call: Call) -> Response:
    """Return a task with what it asks for."""
    return shapes.reply(call, shapes.task_detail(await task_of(call)))


async def get_result(call: Call) -> Response:
    """Return the result without consuming it; with `wait`, as soon as it is there."""
    task = await task_of(call)
    seconds = call.number("wait", 0, low=0, high=_MOST_WAIT) or 0
    host = host_of(call)
    result = await host.await_result(task.id, seconds=seconds)
    body = shapes.HostTaskResult(
        task=shapes.task_body(await host.find(task.id)), result=None if result is None else shapes.result_body(result)
    )
    return shapes.reply(call, body)


async def get_log(call: Call) -> Response:
    """Stream what a task prints; with `follow`, to its end."""
    task = await task_of(call)
    host = host_of(call)

    async def ended() -> bool:
        try:
            return (await host.find(task.id)).status.ended
        except NotFound:  # its retention ended while somebody listened
            return True

    return log_stream(call, task.id, ended, closes=False)


async def cancel(call: Call) -> Response:
    """End a task that waits, or stop one that runs."""
    task = await task_of(call)
    return shapes.reply(call, shapes.task_body(await host_of(call).cancel(task.id, by=call.caller.owner)))


async def approve(call: Call) -> Response:
    """Let a task start, or one tool use of a running agent go on."""
    return await _decide(call, allowed=True)


async def refuse(call: Call) -> Response:
    """Let a task fail that waits for a yes, or refuse one tool use of a running agent."""
    return await _decide(call, allowed=False)


async def _decide(call: Call, *, allowed: bool) -> Response:
    task = await task_of(call)
    decision = await call.body(DecisionBody, empty=True)
    host = host_of(call)
    if decision.tool_use:
        await host.decide_tool(task, decision.tool_use, allowed=allowed, by=call.caller.owner, reason=decision.reason)
        return shapes.reply(call, shapes.task_body(await host.find(task.id)))
    return shapes.reply(call, shapes.task_body(await host.approve(task.id, given=allowed, by=call.caller.owner)))


async def list_tool_uses(call: Call) -> Response:
    """Return the tool uses of a running agent that wait for a person."""
    found = await host_of(call).tool_uses(await task_of(call))
    listed = [
        shapes.ToolUseBody(id=each.id, tool=each.tool, detail=each.detail, cwd=each.cwd, asked_at=each.asked_at)
        for each in found
    ]
    return shapes.reply(call, shapes.ToolUseList(listed))


async def retry(call: Call) -> Response:
    """Submit an ended task again, as a new one."""
    task = await task_of(call)
    return shapes.reply(call, shapes.task_body(await host_of(call).retry(task.id)), status=201)


async def explain_task(call: Call) -> Response:
    """Say why a task stands where it stands."""
    task = await task_of(call)
    return shapes.reply(call, shapes.explanation_body(task, await host_of(call).explain(task)))
