"""Ask people: write the messages that tell of a task, or a tool use, that waits for a yes, and of the link to answer.

A message goes where the task's callbacks go: to its channel, or else to the operator's default one, and to its address.
It is put into the outbox by the transaction that makes the question. It never goes by a gateway's hook, for there an
agent would read it, and might follow the link.
"""

from __future__ import annotations

from typing import Final

import msgspec

from clawplane.domain import questions
from clawplane.domain.clock import Clock
from clawplane.domain.host_tasks import Approval, HostTask, NewParcel, NewTask, Prompt, TaskId, TaskStatus
from clawplane.domain.questions import Question
from clawplane.domain.sealing import Sealing
from clawplane.domain.tool_uses import ToolUse
from clawplane.flows.answer_links import Answerable, AnswerLinks

PATH: Final = "/v1/host/approvals/"


class AnswerRules(msgspec.Struct, frozen=True, kw_only=True):
    """How this installation lets people answer: under which address ("": where a submission arrived), how long."""

    public_url: str = ""
    seconds: int = 86_400
    default_channel: str = ""


class Questions:
    """Writes questions."""

    def __init__(self, sealing: Sealing, clock: Clock, rules: AnswerRules) -> None:
        self.links = AnswerLinks(sealing, clock)
        self._clock = clock
        self._rules = rules

    def before(self, new: NewTask, *, arrived_at: str) -> NewTask:
        """Return a new task with what is asked before it starts, and with where later questions are answered."""
        asks_later = isinstance(new.work, Prompt) and new.work.approval == "tools"
        if new.approval is not Approval.WAITING and not asks_later:
            return new
        new = msgspec.structs.replace(new, answer_at=arrived_at)
        return msgspec.structs.replace(new, questions=self.about(new)) if new.approval is Approval.WAITING else new

    def about(self, task: NewTask | HostTask) -> tuple[NewParcel, ...]:
        """Return the messages that ask whether a task may start."""
        return self._parcels(questions.of_task(task), task, self._rules.seconds * 1000)

    def again(self, old: HostTask, new: TaskId) -> tuple[NewParcel, ...]:
        """Return the messages that ask whether an ended task may start anew, under a new id."""
        at = self._clock.now_ms()
        return self.about(msgspec.structs.replace(old, id=new, status=TaskStatus.PENDING, runner=None, created_at=at))

    def about_tool(self, task: HostTask, use: ToolUse) -> tuple[NewParcel, ...]:
        """Return the messages that ask whether an agent may use a tool; nobody waits longer than its turn may take."""
        turn = task.work.timeout if isinstance(task.work, Prompt) else 0
        return self._parcels(questions.of_tool(task, use), task, min(self._rules.seconds * 1000, turn))

    def _parcels(self, question: Question, task: NewTask | HostTask, lifetime_ms: int) -> tuple[NewParcel, ...]:
        channel = task.callback_channel or self._rules.default_channel
        if not channel and not task.callback_url:
            return ()
        until = self._clock.now_ms() + lifetime_ms
        at = self._rules.public_url or task.answer_at
        token = self.links.token(Answerable(question.kind, question.task, question.use, until))
        link = f"{at}{PATH}{token}" if at else ""
        parcels = []
        if channel:
            text = questions.chat_question(question, link=link, until=until)
            parcels.append(NewParcel(kind="chat-question", destination=channel, body=text.encode("utf-8", "replace")))
        if task.callback_url:
            notice = questions.webhook_question(question, task, link=link, until=until)
            parcels.append(NewParcel(kind="webhook-question", destination=task.callback_url, body=notice))
        return tuple(parcels)
