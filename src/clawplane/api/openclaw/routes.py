"""The Task API's route table. Paths ignore case and a slash at their end; `{}` is one segment.

Additive lines stand below the old ones of their group.
"""

from __future__ import annotations

from clawplane.api.openclaw import asking, fetching, notifying, polling, reading, recent, reporting, submitting
from clawplane.api.openclaw.visits import Handler, Line
from clawplane.domain.access import Scope

_HOST, _RUNNER, _READ = Scope.HOST, Scope.HOST_RUNNER, Scope.READ


def lines() -> list[Line]:
    """Return the table; fixed paths win over those with `{}`."""
    return [
        _post("/tasks", "tasks.command", submitting.command),
        _post("/files/write", "tasks.file_write", submitting.file_write),
        _post("/files/read", "tasks.file_read", submitting.file_read),
        _post("/files/edit", "tasks.file_edit", submitting.file_edit),
        _post("/claude", "tasks.claude", submitting.prompt("claude")),
        _post("/codex", "tasks.codex", submitting.prompt("codex")),
        _post("/gemini", "tasks.gemini", submitting.prompt("gemini")),
        _get("/tasks/stats", "tasks.stats", reading.task_stats),
        _get("/tasks/{}", "tasks.fetch", fetching.fetch, scope=_HOST, head=fetching.look),
        _get("/tasks", "tasks.list", fetching.list_tasks),
        _post("/tasks/{}/cancel", "tasks.cancel", fetching.cancel),
        Line(
            method="GET",
            path="/worker/poll",
            name="worker.poll",
            handler=polling.poll,
            scope=_RUNNER,
            head=polling.look,
            limited=False,
            fallback=polling.NOTHING,
        ),
        _post("/worker/result", "worker.result", reporting.result, scope=_RUNNER),
        _post("/worker/event", "worker.event", reporting.event, scope=_RUNNER),
        _post("/worker/heartbeat", "worker.heartbeat", polling.heartbeat, scope=_RUNNER),
        _post("/worker/ask", "worker.ask", asking.ask, scope=_RUNNER),
        _get("/health", "task_api.health", reading.health, scope=None),
        _get("/events", "events.list", reading.events),
        _get("/events/stats", "events.stats", reading.event_stats),
        _post("/events/maintenance", "events.maintain", reading.maintain),
        _get("/events/stream", "events.stream", reading.stream),
        _get("/sessions/stats", "conversations.stats", reading.session_stats),
        _get("/sessions/state", "conversations.state", reading.session_states),
        _get("/claude/sessions", "conversations.claude", reading.claude_sessions),
        _get("/claude/recent", "recent.claude", recent.claude),
        _get("/codex/recent", "recent.codex", recent.codex),
        _get("/runners", "runners.list", polling.list_runners),
        _post("/notify", "notify", notifying.notify),
    ]


def _get(
    path: str,
    name: str,
    handler: Handler,
    *,
    scope: Scope | None = _READ,
    head: Handler | None = None,
) -> Line:
    return Line(method="GET", path=path, name=name, handler=handler, scope=scope, head=head)


def _post(path: str, name: str, handler: Handler, *, scope: Scope = _HOST) -> Line:
    limited = scope is not _RUNNER  # a refused report would be a lost one
    return Line(method="POST", path=path, name=name, handler=handler, scope=scope, limited=limited)
