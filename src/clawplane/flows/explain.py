"""Say why a host task is not running, in words, with what can be done."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from clawplane.domain.host_ports import Waiting
from clawplane.domain.host_tasks import Approval, HostTask, Reach, TaskStatus, reaches
from clawplane.domain.leases import RunnerRecord
from clawplane.flows.runner_links import reach_of


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task stands where it stands. `code` is for programs, `reason` and `hint` for people."""

    code: str
    reason: str
    hint: str = ""
    ahead: int = 0
    """Tasks before it in the queue that ask for the same."""


def explain(
    task: HostTask, waiting: Waiting | None, runners: Sequence[RunnerRecord], *, parked: Sequence[Reach], now: int
) -> Explanation:
    """Explain a task. `parked` is what the waiting polls of Task API runners could take; `now` in milliseconds."""
    if task.status is TaskStatus.RUNNING:
        return Explanation(code="running", reason=f"It runs on {task.runner}, attempt {task.attempt}.")
    if task.status.ended or waiting is None:
        word = f" ({task.reason})" if task.reason else ""
        return Explanation(code="ended", reason=f"It has ended: {task.status}{word}.")
    if task.approval is Approval.WAITING:
        hint = f"Approve it: clawplane task approve {task.id}"
        return Explanation(code="approval", reason="It waits for a person's yes.", hint=hint)
    if waiting.session_head is not None:
        return Explanation(
            code="session",
            reason=f"It waits for task {waiting.session_head}, which is before it in the same conversation.",
            hint="Tasks of one conversation run one after the other; cancel that one if it hangs.",
        )
    if waiting.due_at is not None and waiting.due_at > now:
        seconds = (waiting.due_at - now) / 1000
        return Explanation(code="scheduled", reason=f"It is due in {seconds:.0f} s.")
    return _of_runners(waiting, runners, parked)


def _of_runners(waiting: Waiting, runners: Sequence[RunnerRecord], parked: Sequence[Reach]) -> Explanation:
    able = [runner for runner in runners if reaches(reach_of(runner), waiting.caps)]
    present = [runner for runner in able if runner.connected and not runner.draining]
    polls = [reach for reach in parked if reaches(reach, waiting.caps)]
    ahead = waiting.ahead
    if not present and not polls:
        wanted = _in_words(waiting.caps)
        if able:
            names = ", ".join(sorted({runner.name for runner in able}))
            reason = f"No runner that can do it is connected; {names} could."
            return Explanation(code="runner_away", reason=reason, hint="Start that runner again.", ahead=ahead)
        reason = f"No runner offers {wanted}."
        hint = "Start one on the machine that shall do it: clawplane runner --host-tasks"
        return Explanation(code="no_runner", reason=reason, hint=hint, ahead=ahead)
    if ahead:
        many = "1000 or more" if ahead >= 1000 else str(ahead)
        return Explanation(code="queued", reason=f"{many} tasks are before it, and every slot is taken.", ahead=ahead)
    return Explanation(code="queued", reason="It is next; every slot of the runners that can do it is taken.")


def _in_words(caps: str) -> str:
    _, group, *target = caps.split("@", 2)
    what = {"command": "commands", "files": "file operations"}.get(group, f"the {group} CLI")
    if not target:
        return what
    how, _, who = target[0].partition("=")
    return f"{what} on the runner {who!r}" if how == "runner" else f"{what} with the labels {who}"
