"""Forty runs while the control plane and both runners are killed again and again, and the judgement of the history."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fault_parts import Parts, kill
from history_check import check_host, check_rest, check_run
from watched_proxy import WatchedProxy

SEED = 20_261_120
RUNS = 40
ROWS = 30
FAULTS = ("serve", "first", "serve", "second", "both runners", "serve")


class Chaos:
    """Kills and starts parts at seeded moments, until it is through with its list."""

    def __init__(self, parts: Parts, proxies: Sequence[WatchedProxy], chance: random.Random) -> None:
        self._parts = parts
        self._proxies = dict(zip(("first", "second"), proxies, strict=True))
        self._chance = chance
        self._processes: dict[str, subprocess.Popen[str]] = {"serve": parts.serve()}
        self.runner_pids: list[int] = []
        self._start_runners(list(self._proxies))
        self._stopped = threading.Event()

    def __call__(self) -> None:
        for fault in FAULTS:
            self._stopped.wait(self._chance.uniform(0.6, 2.0))  # the moments are the input of this test
            names = list(self._proxies) if fault == "both runners" else [fault]
            kill(*(self._processes[name] for name in names))
            self._stopped.wait(self._chance.uniform(0.0, 0.5))
            if fault == "serve":
                self._processes["serve"] = self._parts.serve()
            else:
                self._start_runners(names)

    def end(self) -> None:
        """Stop the runners as an operator would."""
        for name in self._proxies:
            self._processes[name].terminate()
        for name in self._proxies:
            self._processes[name].wait(20)

    def _start_runners(self, names: Sequence[str]) -> None:
        for name in names:
            self._processes[name] = self._parts.runner(name, url=self._proxies[name].url, slots=3)
            self.runner_pids.append(self._processes[name].pid)


def submit(parts: Parts, worker: str, chance: random.Random) -> list[str]:
    """Submit runs all along the way; those that no control plane has accepted are submitted again."""
    slugs: list[str] = []
    while len(slugs) < RUNS:
        urls = [{"url": part} for part in ("a", "b")[: chance.choice((1, 1, 1, 2))]]
        try:
            slugs.append(parts.start(worker, url=urls, n=ROWS, each=round(chance.uniform(0, 0.03), 3)))
        except httpx.TransportError:
            time.sleep(0.1)
    return slugs


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
        slugs = submit(parts, worker, random.Random(SEED + 1))
        killing.result(90)
    acknowledged = {lease: rows for proxy in proxies for lease, rows in proxy.acknowledged().items()}
    attempts = 0
    for slug in slugs:
        parts.ended(slug, patience=90)
    acknowledged = {lease: rows for proxy in proxies for lease, rows in proxy.acknowledged().items()}
    for slug in slugs:
        run = check_run(parts, slug, acknowledged)
        subtasks = parts.subtasks(slug)
        attempts += sum(len(subtask["attempts"]) for subtask in subtasks)
        assert (run["status"], run["results"]) == ("succeeded", ROWS * len(subtasks)), subtasks
    assert attempts > len(slugs) + RUNS // 4  # the kills have hit something
    listed = parts.http.get("/api/v2/worker-runs", params={"limit": 100}).json()["data"]
    known = {run["slug"] for run in listed["list"]}
    assert known >= set(slugs)
    for slug in known - set(slugs):  # accepted, but the answer was lost with the connection
        parts.ended(slug)
        check_run(parts, slug, acknowledged)
    check_rest(parts)
    chaos.end()
    check_host(parts, chaos.runner_pids)
