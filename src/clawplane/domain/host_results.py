"""Build the result of a host task as the Task API shows it, once, when the task ends."""

from __future__ import annotations

import json
from typing import Any

from clawplane.domain.host_tasks import HostTask, Prompt, TaskId, TaskReport


def dispatch_of(task: HostTask | None) -> dict[str, Any]:
    """Return origin, dispatchMode, responseMode and entrypoint of a task; the unknown values for none."""
    work = None if task is None else task.work
    if isinstance(work, Prompt):
        return {
            "origin": work.origin,
            "dispatchMode": work.dispatch_mode,
            "responseMode": work.response_mode,
            "entrypoint": work.entrypoint,
        }
    return {
        "origin": "unknown",
        "dispatchMode": "unspecified",
        "responseMode": "direct-callback",
        "entrypoint": None,
    }


def result_object(task_id: TaskId, task: HostTask | None, report: TaskReport, *, now: int) -> bytes:
    """Return the result as JSON text, keys in the order of the contract; `now` in milliseconds.

    JSON is written with ASCII escapes, because lone surrogates are legal there and nowhere else.
    """
    result = {
        "taskId": task_id,
        "stdout": report.stdout,
        "stderr": report.stderr,
        "exitCode": -1 if report.exit_code is None else report.exit_code,
        "error": report.error or None,
        "completedAt": now,
        "metadata": {**dispatch_of(task), **report.metadata},
        "duration": report.duration,
    }
    return json.dumps(result, ensure_ascii=True, separators=(",", ":")).encode()
