"""Judge what happened to host tasks by what anybody can read afterwards.

For each task that was accepted: one creation, one end by the server's own word, delivered once and gone; as many starts
as it took, each further one behind a requeue that says so; nothing behind its end but its delivery. For each session:
its tasks in the order of their submission, never two at once. For the installation: nothing waits, runs, or is unread.
For the hosts: no process is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from host_parts import HostParts

ENDS = {"task.completed", "task.failed", "task.expired"}
CONFLICT = "task.report-conflict"


def trail(host: HostParts, task: str) -> list[dict[str, Any]]:
    """Return the server's own records of a task, oldest first."""
    found: list[dict[str, Any]] = host.ask("GET", "/events", params={"taskId": task, "limit": 500})["events"]
    records = [record for record in reversed(found) if record["source"] == "server"]
    assert [record["seq"] for record in records] == sorted({record["seq"] for record in records})
    return [record for record in records if record["type"].startswith("task.")]


def check_task(host: HostParts, task: str, *, starts: Sequence[int] = (1,)) -> None:
    """Check one task whose result was fetched; `starts` are the numbers of starts that may be."""
    kinds = [record["type"] for record in trail(host, task)]
    assert kinds[0] == "task.created", kinds
    assert kinds.count("task.created") == 1, kinds
    assert len([kind for kind in kinds if kind in ENDS]) == 1, kinds
    assert kinds.count("task.reconciled") == 1, kinds
    assert kinds[-1] == "task.reconciled", kinds
    assert kinds[-2] in ENDS or kinds[-2] == CONFLICT, kinds
    started, requeued = kinds.count("task.started"), kinds.count("task.requeued")
    assert started in starts, kinds
    assert started in (requeued, requeued + 1), kinds
    assert host.http.get(f"/tasks/{task}").status_code == 404


def check_sessions(host: HostParts, tasks: Sequence[str]) -> None:
    """Check that each session's tasks ran one after the other, in the order given."""
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for task in tasks:
        records = trail(host, task)
        starts = [record["seq"] for record in records if record["type"] == "task.started"]
        (end,) = [record["seq"] for record in records if record["type"] in ENDS]
        spans[records[0]["sessionId"]].append((starts[0], end))
    for of_session in spans.values():
        flat = [number for span in of_session for number in span]
        assert flat == sorted(flat), of_session


def check_rest(host: HostParts) -> None:
    """Check that nothing waits, runs or is unread, and that no process is left."""
    queue = host.ask("GET", "/tasks/stats")["queue"]
    assert (queue["total"], queue["unconsumedResults"], queue["byStatus"]) == (0, 0, {})
    assert host.marked() == []
