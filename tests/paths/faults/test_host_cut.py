"""The network between a server and its runners drops every packet for a minute: nothing is lost, nothing runs twice.

This test waits for a minute, for that is what it is about; it costs no processor meanwhile. That a cut can be longer
than anybody's patience is shown with a clock in tests/conformance.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fault_parts import Parts
from host_history import check_rest, check_task, trail
from host_parts import HostParts
from request_proxy import RequestProxy
from watched_proxy import WatchedProxy

from clawplane.domain.host_tasks import HOST_SELF_STOP_MS
from clawplane.domain.leases import HEARTBEAT_EVERY_MS
from clawplane.link.connection import Waits
from clawplane.runner.host.heartbeats import AGAIN_SECONDS, HOLDING_SECONDS
from clawplane.runner.host.task_api import HEARTBEAT_SECONDS

CUT_SECONDS = 60.0
LONG_MS = 600_000
WAYS = ("linked", "worker")


class Commands:
    """Commands for one runner, each of which counts its runs and, if it is to wait, waits until it is let on."""

    def __init__(self, host: HostParts, directory: Path, runner: str) -> None:
        self.host = host
        self.runner = runner
        self.directory = directory / runner
        self.directory.mkdir()
        self.tasks: dict[str, str] = {}
        self.expected: dict[str, int] = {}

    def submit(self, name: str, then: str = "true", *, runs: int = 1, code: int = 0, timeout: int = LONG_MS) -> None:
        """Submit a command that notes its run and goes on with `then`."""
        noted = f"echo run >> {self.directory / name}.runs; echo $$ > {self.directory / name}.pid"
        self.tasks[name] = self.host.submit(f"{noted}; {then}; exit {code}", timeout=timeout, target=self.runner)
        self.expected[name] = runs

    def waiting(self, name: str, **more: Any) -> None:
        """Submit one that waits, and return when it runs."""
        for kind in ("begun", "gate"):
            os.mkfifo(self.directory / f"{name}.{kind}")
        begun, gate = self.directory / f"{name}.begun", self.directory / f"{name}.gate"
        self.submit(name, f"echo begun > {begun}; cat {gate}; echo {name} is done", **more)
        assert begun.read_text() == "begun\n"

    def let_on(self, name: str) -> None:
        """Let a command that waits go on."""
        with (self.directory / f"{name}.gate").open("w") as gate:
            gate.write("on\n")

    def runs(self, name: str) -> int:
        """Return how often a command was begun."""
        file = self.directory / f"{name}.runs"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def lives(self, name: str) -> bool:
        """Tell whether a command's shell lives."""
        return int((self.directory / f"{name}.pid").read_text()) in self.host.marked()

    def check(self, name: str, starts: Sequence[int] = (1,), **result: Any) -> None:
        """Fetch a result that must come, and judge the task's history."""
        fetched = self.host.fetch(self.tasks[name], 60_000)
        assert {key: fetched[key] for key in result} == result, (self.runner, name, fetched)
        check_task(self.host, self.tasks[name], starts=starts)
        assert self.runs(name) == self.expected[name], (self.runner, name)


def before(commands: Commands) -> None:
    """Have commands of every kind run."""
    commands.waiting("ends-meanwhile")
    commands.waiting("fails-meanwhile", code=3)
    commands.waiting("ends-afterwards")
    commands.waiting("cancelled-meanwhile")


def meanwhile(commands: Commands) -> None:
    """Let some end, give up one, and ask for more, all of which nobody can be told."""
    commands.let_on("ends-meanwhile")
    commands.let_on("fails-meanwhile")
    for number in range(3):
        commands.submit(f"submitted-{number}")
    commands.host.ask("POST", f"/tasks/{commands.tasks['cancelled-meanwhile']}/cancel", {})


def at_its_end(commands: Commands) -> None:
    """Check that what was asked of the runner has not reached it, and that it goes on with its work."""
    assert [commands.runs(f"submitted-{number}") for number in range(3)] == [0, 0, 0]
    assert commands.lives("ends-afterwards")
    assert not commands.lives("ends-meanwhile")
    for name in ("ends-meanwhile", "ends-afterwards"):
        assert commands.host.state(commands.tasks[name]) == "running"
        assert [record["type"] for record in trail(commands.host, commands.tasks[name])][1:] == ["task.started"]


def afterwards(commands: Commands) -> None:
    """Check that everything came to its one end."""
    commands.check("ends-meanwhile", exitCode=0, stdout="on\nends-meanwhile is done\n")
    commands.check("fails-meanwhile", exitCode=3)
    commands.let_on("ends-afterwards")
    commands.check("ends-afterwards", exitCode=0, stdout="on\nends-afterwards is done\n")
    for number in range(3):
        # one may have been given to a poll that nobody heard of any more: it was started twice, and run once
        commands.check(f"submitted-{number}", (1, 2), exitCode=0)
    commands.check("cancelled-meanwhile", exitCode=-1, error="Cancelled")
    assert not commands.lives("cancelled-meanwhile")


@pytest.fixture
def proxies(
    parts: Parts, make_proxy: Callable[..., WatchedProxy], make_request_proxy: Callable[..., RequestProxy]
) -> list[WatchedProxy | RequestProxy]:
    """Return what stands between the server and its linked runner, and its polling one."""
    parts.serve()
    return [make_proxy(), make_request_proxy()]


@pytest.mark.timeout(240)
def test_a_minute_without_network_costs_no_result_and_no_attempt_and_runs_nothing_twice(
    host: HostParts, proxies: list[WatchedProxy | RequestProxy], tmp_path: Path
) -> None:
    runners = [host.runner(proxies[0].url), host.worker(proxies[1].url)]
    ways = [Commands(host, tmp_path, runner) for runner in WAYS]
    with ThreadPoolExecutor(len(ways)) as pool:
        list(pool.map(before, ways))
        for proxy in proxies:
            proxy.go_silent()
        over = threading.Timer(CUT_SECONDS, lambda: None)
        over.start()
        list(pool.map(meanwhile, ways))
        over.join()
        known = {each["name"]: each["connected"] for each in host.ask("GET", "/runners")["runners"]}
        assert not known["linked"]  # the server has noticed, though nobody told it
        list(pool.map(at_its_end, ways))
        for proxy in proxies:
            proxy.mend()
        list(pool.map(afterwards, ways))
    for runner in runners:
        runner.terminate()
    assert [runner.wait(15) for runner in runners] == [0, 0]
    check_rest(host)


def test_both_runners_find_a_link_that_is_back_before_they_give_up_what_they_run() -> None:
    """After a last word just before the cut, and with an attempt just before its end that is swallowed."""
    patience = HOST_SELF_STOP_MS / 1000
    link = Waits()
    assert patience > HEARTBEAT_EVERY_MS / 1000 + CUT_SECONDS + link.open_holding + link.retry_holding
    assert patience > HOLDING_SECONDS + CUT_SECONDS + HEARTBEAT_SECONDS + AGAIN_SECONDS
    noticed = HEARTBEAT_EVERY_MS / 1000 * (link.answer_beats + 1)
    assert noticed < CUT_SECONDS / 2
