"""Answer questions about host tasks by link: see what is asked, say yes or no, once.

The link is the right to answer; who holds it is not known, and is recorded as such. What decides is the question
itself, at the one place where it is kept: the store for a task, the runner for a tool use. Two answers at the same time
are one answer and one Conflict.
"""

from __future__ import annotations

from typing import Final

from clawplane.domain import questions
from clawplane.domain.errors import Conflict, NotFound
from clawplane.domain.host_tasks import Approval, HostTask, TaskStatus
from clawplane.domain.questions import Question
from clawplane.flows.answer_links import Answerable
from clawplane.flows.host_tasks import HostWork

BY: Final = "a person with the answer link"
_ANSWERED: Final = {Approval.GIVEN: "approved", Approval.REFUSED: "refused"}


async def look(host: HostWork, token: str) -> tuple[Question, int]:
    """Return what is asked, and until when (milliseconds) the link answers it.

    Raises NotFound for what is no link of ours or names nothing any more, Gone when its time is over, Conflict when the
    question needs no answer any more, Unavailable when the runner cannot be asked.
    """
    named = host.questions.links.read(token)
    return await _question(host, named, await _task(host, named)), named.expires_at


async def answer(host: HostWork, token: str, *, given: bool) -> Question:
    """Answer a question for good and return it; raises what `look` does."""
    named = host.questions.links.read(token)
    task = await _task(host, named)
    question = await _question(host, named, task)
    if named.kind == "tool":
        await host.decide_tool(task, named.use, allowed=given, by=BY)
    else:
        await host.approve(task.id, given=given, by=BY)
    return question


async def _task(host: HostWork, named: Answerable) -> HostTask:
    try:
        return await host.find(named.task)
    except NotFound:
        raise NotFound("The task that this question is about is not known any more.", hint="") from None


async def _question(host: HostWork, named: Answerable, task: HostTask) -> Question:
    if named.kind == "task":
        if task.approval in _ANSWERED:
            raise Conflict(f"This question has been answered: the task was {_ANSWERED[task.approval]}.")
        if task.status is not TaskStatus.PENDING:
            raise Conflict(f"The task needs no answer any more: it has {_end_of(task)}.")
        return questions.of_task(task)
    if task.status is not TaskStatus.RUNNING:
        raise Conflict(f"The tool needs no answer any more: its task is {_end_of(task)}.")
    for use in await host.tool_uses(task, reachable=True):
        if use.id == named.use:
            return questions.of_tool(task, use)
    raise Conflict("This question needs no answer any more: it has been answered, or nobody did in time.")


def _end_of(task: HostTask) -> str:
    return f"{task.status} ({task.reason})" if task.reason else str(task.status)
