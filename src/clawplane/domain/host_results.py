"""Build the result of a host task as the Task API shows it, once, when the task ends."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from clawplane.domain.host_tasks import HostTask, Prompt, TaskId, TaskReport

_MOST_SHOWN: Final = 4096


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


def exit_code_of(report: TaskReport) -> Any:
    """Return the exit code that the Task API shows."""
    return -1 if report.exit_code is None else report.exit_code


def result_object(task_id: TaskId, task: HostTask | None, report: TaskReport, *, now: int) -> bytes:
    """Return the result as JSON text, keys in the order of the contract; `now` in milliseconds.

    JSON is written with ASCII escapes, because lone surrogates are legal there and nowhere else. What JSON cannot say
    (infinity, say) is null. Raises TypeError or RecursionError for what no JSON value was made from.
    """
    result = {
        "taskId": task_id,
        "stdout": report.stdout,
        "stderr": report.stderr,
        "exitCode": exit_code_of(report),
        "error": report.error or None,
        "completedAt": now,
        "metadata": {**dispatch_of(task), **report.metadata},
        "duration": report.duration,
    }
    return json_of(result).encode()


def json_of(value: Any) -> str:
    """Return a value as ASCII JSON text; infinities and NaN are null, as JavaScript writes them."""
    try:
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"))


def shown(value: Any) -> Any:
    """Return a value as a record of the trail shows it: whole, or the beginning of its text when it is long."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json_of(value)
    if len(text) <= _MOST_SHOWN:
        return value
    return f"{text[:_MOST_SHOWN]}… ({len(text)} characters)"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
