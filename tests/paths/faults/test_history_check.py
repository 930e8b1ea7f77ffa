"""The judge of histories is judged: whatever breaks a promise is noticed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from history_check import check_rest, check_run

SLUG, JOB = "01RUN", 7
ROWS = [{"number": 0}, {"number": 1}, {"number": 2}]
OUTCOME = {"succeeded": True, "reason": "exit"}


def attempt(number: int, fence: int, at: int, end: str, outcome: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "attempt": number,
        "fence": fence,
        "offered_at": at,
        "confirmed_at": at + 1,
        "ended_at": at + 5,
        "end": end,
        "outcome": outcome,
    }


class Told:
    """What a control plane tells of one run whose first runner was lost; tests spoil a part of it."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] = {"status": "succeeded", "results": 3}
        self.kinds = ["run.ready", "run.running", "run.succeeded"]
        self.parts: list[dict[str, Any]] = [
            {
                "id": str(JOB),
                "outcome": OUTCOME,
                "attempts": [attempt(1, 4, 100, "runner_lost", None), attempt(2, 9, 110, "finished", OUTCOME)],
            }
        ]
        self.exported = copy.deepcopy(ROWS)
        self.gauges = {"ready": 0.0, "offered": 0.0, "leased": 0.0}
        self.http = httpx.Client(base_url="http://told", transport=httpx.MockTransport(self._tell))

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The attempts at the only subtask."""
        found: list[dict[str, Any]] = self.parts[0]["attempts"]
        return found

    def export(self, results: int, rows: list[dict[str, Any]]) -> None:
        """Tell these rows, and that there are so many."""
        self.answer["results"], self.exported = results, rows

    def run(self, slug: str) -> dict[str, Any]:
        return self.answer

    def subtasks(self, slug: str) -> list[dict[str, Any]]:
        return self.parts

    def rows(self, slug: str) -> list[dict[str, Any]]:
        return self.exported

    def _tell(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            lines = [f'clawplane_jobs{{state="{name}"}} {count}' for name, count in self.gauges.items()]
            return httpx.Response(200, text="\n".join(lines))
        events = [{"seq": seq, "kind": kind} for seq, kind in enumerate(self.kinds)]
        return httpx.Response(200, json={"data": {"list": events}})


def judge(told: Told) -> None:
    acknowledged = {(JOB, 4): [b'{"number": 99}'], (JOB, 9): [json.dumps(row).encode() for row in ROWS]}
    with told.http:
        check_run(told, SLUG, acknowledged)  # type: ignore[arg-type]
        check_rest(told)  # type: ignore[arg-type]


SPOILT: dict[str, Callable[[Told], object]] = {
    "no end": lambda told: told.answer.update(status="running"),
    "two ends": lambda told: told.kinds.insert(2, "run.failed"),
    "an event behind the end": lambda told: told.kinds.append("run.running"),
    "an end without its event": lambda told: told.kinds.pop(),
    "attempts that overlap": lambda told: told.attempts[0].update(ended_at=111),
    "a fence that falls": lambda told: told.attempts[1].update(fence=3),
    "an attempt that was not counted": lambda told: told.attempts[1].update(attempt=1),
    "an attempt after an accepted end": lambda told: told.attempts[0].update(end="finished", outcome=OUTCOME),
    "the outcome of somebody else": lambda told: told.parts[0].update(outcome={"succeeded": False, "reason": "exit"}),
    "a row lost": lambda told: told.export(2, ROWS[:2]),
    "a row doubled": lambda told: told.export(4, [*ROWS, {"number": 2}]),
    "a row of a lost attempt": lambda told: told.export(4, [*ROWS, {"number": 99}]),
    "rows out of order": lambda told: told.exported.reverse(),
    "a count that is wrong": lambda told: told.answer.update(results=4),
    "a lease left over": lambda told: told.gauges.update(leased=1.0),
}


def test_a_history_that_keeps_every_promise_passes() -> None:
    judge(Told())


@pytest.mark.parametrize("name", SPOILT)
def test_a_history_that_breaks_a_promise_is_noticed(name: str) -> None:
    told = Told()
    SPOILT[name](told)
    with pytest.raises((AssertionError, IndexError)):
        judge(told)
