"""Ask the runner of a task about tool uses that wait for a person, and hand it the person's word.

The runner keeps what waits, because the agent waits there: nothing is stored here, so nothing can be out of step. A
runner that polls asks by itself, see flows/polled_questions.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec

from clawplane.domain.asks import METHODS, Nothing
from clawplane.domain.errors import Conflict, Unavailable
from clawplane.domain.host_tasks import HostTask, TaskStatus
from clawplane.domain.ids import POLLS
from clawplane.domain.tool_uses import Decide, Decided, ToolUse, ToolUses
from clawplane.flows.leases import Leases
from clawplane.flows.polled_questions import PolledQuestions

T = TypeVar("T")

_SECONDS: Final = 15.0
_encode: Final = msgspec.msgpack.Encoder().encode


async def waiting_of(
    leases: Leases, polled: PolledQuestions, task: HostTask, *, reachable: bool = False
) -> tuple[ToolUse, ...]:
    """Return the tool uses of a task that wait, oldest first; none of a task that does not run here.

    `reachable`: a runner that cannot be asked is no answer, but Unavailable.
    """
    if task.status is TaskStatus.RUNNING and _polls(task):
        return polled.waiting_of(task.id)
    if task.status is not TaskStatus.RUNNING or (leases.reach(task.job) is None and not reachable):
        return ()
    return (await _ask(leases, task, "tool_uses", Nothing(), ToolUses)).waiting


async def decide(leases: Leases, polled: PolledQuestions, task: HostTask, word: Decide) -> None:
    """Let a tool use go on, or refuse it; raises Conflict when it does not wait, Unavailable when nobody is reached."""
    if task.status is not TaskStatus.RUNNING:
        raise Conflict(f"The task is {task.status}: no tool use of it waits.")
    if not await _taken(leases, polled, task, word):
        raise Conflict(
            f"No tool use {word.id[:80]!r} of this task waits for an answer.",
            hint="It was answered before, or nobody answered in time.",
        )


async def _taken(leases: Leases, polled: PolledQuestions, task: HostTask, word: Decide) -> bool:
    if _polls(task):
        return polled.decide(task.id, word)
    return (await _ask(leases, task, "decide_tool", word, Decided)).taken


def _polls(task: HostTask) -> bool:
    return (task.runner or "").startswith(POLLS)


async def _ask(leases: Leases, task: HostTask, method: str, question: msgspec.Struct, answer: type[T]) -> T:
    reached = leases.reach(task.job)
    if reached is None:
        raise Unavailable(
            "The runner of this task cannot be asked now.",
            hint="Only clawplane's own runners can ask a person, and their link must be open.",
        )
    if not isinstance(question, METHODS[method][0]):
        raise TypeError(f"{method} does not ask {type(question).__name__}")
    asked = reached.connection.ask(task.job, reached.fence, method, _encode(question))
    try:
        async with asyncio.timeout(_SECONDS):
            return msgspec.msgpack.decode(await asked.answer(), type=answer)
    except TimeoutError:
        raise Unavailable("The runner of this task does not answer.") from None
    finally:
        asked.withdraw()
