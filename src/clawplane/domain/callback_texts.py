"""Write what a chat is told of the end of an agent's task."""

from __future__ import annotations

from typing import Final

from clawplane.domain.host_tasks import HostTask, TaskReport, TaskType

_LABELS: Final = {TaskType.CLAUDE: "CC", TaskType.CODEX: "Codex", TaskType.GEMINI: "Gemini"}
_NO_OUTPUT: Final = "(no output)"
_ERROR_TAIL: Final = 1500


def chat_text(task: HostTask, report: TaskReport, *, now: int) -> str:
    """Return the whole message, uncut: the answer, or what failed with the end of its errors; `now` in milliseconds."""
    seconds = (now - (task.started_at or now)) / 1000
    return message_of(task.type, task.session_id, report, seconds=seconds)


def message_of(type_: TaskType, session_id: str | None, report: TaskReport, *, seconds: float) -> str:
    """Return what `chat_text` does, for a runner that knows the task only as it was given it."""
    answer = report.stdout.strip() or _NO_OUTPUT
    if report.succeeded:
        return answer
    label = _LABELS.get(type_, type_.value)
    parts = [f"**❌ {label} failed** ({seconds:.0f} s, session {(session_id or '')[:8]})"]
    if report.error:
        parts.append(str(report.error))
    if report.stdout.strip():
        parts.append(answer)
    errors = report.stderr.strip()
    if errors and errors != str(report.error or ""):
        parts.append(f"```\n{errors[-_ERROR_TAIL:]}\n```")
    return "\n".join(parts) if len(parts) > 1 else f"{parts[0]}\n{_NO_OUTPUT}"
