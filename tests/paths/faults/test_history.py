"""Forty runs while the control plane and both runners are killed again and again, and the judgement of the history."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fault_parts import Parts, kill
from history_check import check_host, check_rest, check_run
from watched_proxy import WatchedProxy

SEED = int(os.environ.get("CHAOS_SEED", "20261120"))
RUNS_A_FAULT = 5
ROWS = 30
FAULTS = ("serve", "first", "second", "serve", "both runners", "serve", "first", "serve")


class Chaos:
    """Kills and starts parts at seeded moments, until it is through with its list."""

    def __init__(self, parts: Parts, proxies: Sequence[WatchedProxy], chance: random.Random) -> None:
        self._parts = parts
        self._proxies = dict(zip(("first", "second"), proxies, strict=True))
        self._chance = chance
        self._processes: dict[str, subprocess.Popen[str]] = {"serve": parts.serve()}
        self._never = threading.Event()
        self.serving = threading.Event()
        self.turns = threading.Semaphore(0)
        """Released when the next runs are to be submitted, just before the next fault."""
        self.runner_pids: list[int] = []
        self._start_runners(list(self._proxies))
        self.serving.set()

    def __call__(self) -> None:
        for fault in FAULTS:
            self.turns.release()
            self._let_pass(0.4, 1.6)
            names = list(self._proxies) if fault == "both runners" else [fault]
            if fault == "serve":
                self.serving.clear()
            kill(*(self._processes[name] for name in names))
            self._let_pass(0.0, 0.5)
            if fault == "serve":
                self._processes["serve"] = self._parts.serve()
                self.serving.set()
            else:
                self._start_runners(names)

    def end(self) -> None:
        """Stop the runners as an operator would."""
        for name in self._proxies:
            self._processes[name].terminate()
        for name in self._proxies:
            self._processes[name].wait(20)

    def _let_pass(self, least: float, most: float) -> None:
        self._never.wait(self._chance.uniform(least, most))  # the moments are the input of this test

    def _start_runners(self, names: Sequence[str]) -> None:
        for name in names:
            self._processes[name] = self._parts.runner(name, url=self._proxies[name].url, slots=3)
            self.runner_pids.append(self._processes[name].pid)


def submit(parts: Parts, worker: str, chaos: Chaos, chance: random.Random) -> list[str]:
    """Submit some runs before each fault; what no control plane has accepted is submitted again."""
    slugs: list[str] = []
    for _ in FAULTS:
        assert chaos.turns.acquire(timeout=60)
        for _ in range(RUNS_A_FAULT):
            urls = [{"url": part} for part in chance.choice(("a", "b", "c", "ab"))]
            slugs.append(_accepted(parts, worker, chaos, url=urls, n=ROWS, each=chance.uniform(0, 0.03)))
    return slugs


def _accepted(parts: Parts, worker: str, chaos: Chaos, **custom: Any) -> str:
    while True:
        assert chaos.serving.wait(30)
        try:
            return parts.start(worker, **custom)
        except httpx.TransportError:
            continue


def _was_hit_three_times(subtask: dict[str, Any]) -> bool:
    return sum(attempt["confirmed_at"] is not None for attempt in subtask["attempts"]) == 3


@pytest.mark.timeout(180)
def test_whatever_is_killed_and_whenever_each_run_has_one_end_and_each_acknowledged_row_is_there_once(
    parts: Parts, make_proxy: Callable[..., WatchedProxy]
) -> None:
    chance = random.Random(SEED)
    proxies = [make_proxy(), make_proxy()]
    chaos = Chaos(parts, proxies, chance)
    worker = parts.push()
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(chaos)
        slugs = submit(parts, worker, chaos, random.Random(SEED + 1))
        killing.result(90)
    for slug in slugs:
        parts.ended(slug, patience=60)
    # a run whose acceptance was lost with the connection has a history too
    listed = parts.http.get("/api/v2/worker-runs", params={"limit": 100}).json()["data"]["list"]
    known = [run["slug"] for run in listed]
    assert len(slugs) == len(set(slugs)) == RUNS_A_FAULT * len(FAULTS)
    assert set(known) >= set(slugs)
    acknowledged = {lease: rows for proxy in proxies for lease, rows in proxy.acknowledged().items()}
    again = 0
    for slug in known:
        parts.ended(slug)
        check_run(parts, slug, acknowledged)
        for subtask in parts.subtasks(slug):
            assert subtask["status"] == "succeeded" or _was_hit_three_times(subtask), subtask
            again += len(subtask["attempts"]) - 1
    assert again > 3, "the kills have hit next to nothing"
    check_rest(parts)
    chaos.end()
    check_host(parts, chaos.runner_pids)
