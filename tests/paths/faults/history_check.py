"""Judge what happened by what anybody can read afterwards.

For each run that was accepted: one end and no event behind it; attempts in the order of their fences, none beginning
before the one ahead of it was over; all but the last of them void, and the last one's outcome the subtask's own; rows
exactly those of the last attempt, each once, in the order in which they were produced. For the installation: no job
waits, is offered or leased any more. For the host: no guest, mount or control group is left.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from fault_parts import ENDED, Parts, groups_of, guests_of

VOID = {"declined", "offer_expired", "runner_lost", "deadline"}
Acknowledged = Mapping[tuple[int, int], Sequence[bytes]]
"""What runners were told to be stored: rows by (job, fence)."""


def check_run(parts: Parts, slug: str, acknowledged: Acknowledged | None = None) -> dict[str, Any]:
    """Check one run's history and return the run."""
    run = parts.run(slug)
    assert run["status"] in ENDED, run
    _check_events(parts, slug, run["status"])
    subtasks = parts.subtasks(slug)
    for subtask in subtasks:
        _check_attempts(subtask)
    rows = parts.rows(slug)
    assert run["results"] == len(rows)
    if run["status"] == "succeeded" and acknowledged is not None:
        _check_rows(subtasks, rows, acknowledged)
    return run


def _check_events(parts: Parts, slug: str, status: str) -> None:
    answer = parts.http.get("/v1/events", params={"subject": slug, "limit": 1000}).json()["data"]["list"]
    kinds = [event["kind"] for event in answer]
    assert [event["seq"] for event in answer] == sorted({event["seq"] for event in answer})
    assert kinds[0] == "run.ready", kinds
    assert kinds.count("run.running") <= 1, kinds
    ends = [kind for kind in kinds if kind.removeprefix("run.") in ENDED]
    assert ends == [f"run.{status}"] == kinds[-1:], kinds


def _check_attempts(subtask: dict[str, Any]) -> None:
    attempts = subtask["attempts"]
    assert attempts, subtask
    for earlier, later in pairwise(attempts):
        assert earlier["fence"] < later["fence"], attempts
        assert earlier["ended_at"] <= later["offered_at"], attempts
        assert _is_void(earlier), attempts
        used_up = earlier["confirmed_at"] is not None
        assert later["attempt"] == earlier["attempt"] + used_up, attempts
    last = attempts[-1]
    if last["end"] == "finished":
        assert last["outcome"] == subtask["outcome"], subtask
    for attempt in attempts:
        assert attempt["offered_at"] <= (attempt["confirmed_at"] or attempt["offered_at"]) <= attempt["ended_at"]


def _is_void(attempt: dict[str, Any]) -> bool:
    """Tell whether an attempt ended without an end of its job."""
    given_back = attempt["end"] == "finished" and attempt["outcome"]["reason"] == "setup"
    return attempt["end"] in VOID or given_back


def _check_rows(subtasks: list[dict[str, Any]], rows: list[dict[str, Any]], acknowledged: Acknowledged) -> None:
    """Find the acknowledged rows of every last attempt in the export: all of them, once, in order, and nothing else."""
    exported = [json.dumps(row, sort_keys=True) for row in rows]
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(exported):
        places[row].append(place)
    found: list[int] = []
    for subtask in subtasks:
        last = subtask["attempts"][-1]
        said = acknowledged.get((int(subtask["id"]), last["fence"]), ())
        at = [places[json.dumps(json.loads(row), sort_keys=True)].pop(0) for row in said]
        assert at == sorted(at), "rows of a subtask are out of order"
        found += at
    assert sorted(found) == list(range(len(exported))), "a row is there that nobody was told to be stored"


def check_rest(parts: Parts) -> None:
    """Check that nothing waits, and that no job is offered or leased any more."""
    gauges = [line.rpartition(" ") for line in parts.http.get("/metrics").text.splitlines()]
    jobs = {name: float(count) for name, _, count in gauges if name.startswith("clawplane_jobs")}
    assert jobs
    assert {name: count for name, count in jobs.items() if count} == {}


def check_host(parts: Parts, runners: Sequence[int]) -> None:
    """Check that runners that are gone (their process ids) left nothing behind."""
    assert guests_of(parts.home) == []
    assert [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(parts.home) in line] == []
    assert groups_of(runners) == []
