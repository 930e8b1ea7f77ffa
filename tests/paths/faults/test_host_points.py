"""Kill the control plane and runners of host tasks at exactly one point: each task ends once and is delivered once."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_parts import Parts, kill
from host_history import check_rest, check_sessions, check_task, trail
from host_parts import HostParts, report_of
from request_proxy import RequestProxy
from watched_proxy import Frame, WatchedProxy

from clawplane.link.frames import Confirmed, End, Ended

KEYED = {"command": "true", "env": {}}


def test_a_control_plane_killed_at_any_point_of_a_played_conversation_keeps_every_task_and_ends_it_once(
    parts: Parts, host: HostParts
) -> None:
    serve = parts.serve()
    # how far each has come, oldest first, for polls are given the oldest
    reported, fetched, unheard, unsent, late, twice = (host.submit(name) for name in "abcdef")
    session = [host.prompt("one-session") for _ in range(2)]
    for task in (reported, fetched, unheard, unsent, late, twice, session[0]):
        host.claim(task)
    assert host.poll() is None  # the session's second task waits for its first
    submitted = host.submit("g")
    host.report(reported)
    host.report(fetched)
    assert host.fetch(fetched)["stdout"] == "done\n"
    with (
        host.said("POST", "/worker/result", report_of(unheard)),
        host.said("POST", "/tasks", KEYED, Idempotency_Key="stored"),
    ):
        until_stored(host, unheard)
        os.kill(serve.pid, signal.SIGSTOP)
        with (
            host.said("POST", "/worker/result", report_of(unsent)),
            host.said("POST", "/tasks", KEYED, Idempotency_Key="never-read"),
        ):
            kill(serve)
    parts.serve()
    assert host.http.get(f"/tasks/{fetched}").status_code == 404
    host.report(late)  # its runner survived and goes on: the first word counts, and nobody is given it again
    host.report(unheard)  # its runner repeats what was not answered
    host.report(unsent)
    keyed = [
        host.ask("POST", "/tasks", KEYED, headers={"Idempotency-Key": key})["taskId"]
        for key in ("stored", "stored", "never-read", "never-read")
    ]
    assert (keyed[0], keyed[2]) == (keyed[1], keyed[3])
    host.claim(twice)
    host.report(twice, stdout="of the first runner\n")
    host.report(twice, exit_code=1, stdout="of the second runner\n")
    for task in session:
        assert host.claim(task)["sessionId"] == "one-session"
        host.report(task)
    rest = {given["id"] for given in iter(host.poll, None)}
    assert rest == {submitted, keyed[0], keyed[2]}
    for task in rest:
        host.report(task)
    everything = [reported, unheard, unsent, late, twice, *session, *rest]
    results = {task: host.fetch(task, 0) for task in everything}
    assert results[twice]["stdout"] == "of the first runner\n"
    assert all(result["exitCode"] == 0 for result in results.values())
    for task in (*everything, fetched):
        check_task(host, task, starts=(1, 2))
    check_sessions(host, session)
    check_rest(host)


def until_stored(host: HostParts, reported: str) -> None:
    """Wait until a report and a submission, sent one after the other, are stored; neither answer is read."""
    for _ in range(200):
        counts = host.ask("GET", "/tasks/stats")["queue"]
        # reported and unheard have results; submitted and the session's second wait, and the keyed one
        if counts["unconsumedResults"] == 2 and counts["byStatus"].get("pending") == 3:
            return
    raise AssertionError(f"the report of {reported} was not stored: {counts}")


# Runners that poll


class Cut:
    """Cut connections at one kind of request or answer while armed; says when it did."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.armed = True
        self.came = threading.Event()
        self.passed = threading.Event()

    def __call__(self, what: str) -> bool:
        if what != self._what:
            return True
        if not self.armed:
            self.passed.set()
            return True
        self.came.set()
        return False


@pytest.mark.parametrize(
    "point", ["POST /worker/result", "answer to POST /worker/result"], ids=["spooled", "reported-not-acknowledged"]
)
def test_a_polling_runner_killed_around_its_report_reports_at_its_next_start_and_runs_nothing_twice(
    parts: Parts, host: HostParts, make_request_proxy: Callable[..., RequestProxy], point: str
) -> None:
    parts.serve()
    cut = Cut(point)
    proxy = make_request_proxy(cut)
    worker = host.worker(proxy.url)
    effects = host.home / "effects"
    task = host.submit(f"echo once >> {effects}; echo done")
    assert cut.came.wait(40)
    kill(worker)
    cut.armed = False
    worker = host.worker(proxy.url)
    assert cut.passed.wait(40)
    assert host.fetch(task)["stdout"] == "done\n"
    worker.terminate()
    assert worker.wait(6) == 0
    assert effects.read_text() == "once\n"
    check_task(host, task)
    check_rest(host)


def test_a_polling_runner_killed_while_a_command_runs_leaves_no_process_behind(
    parts: Parts, host: HostParts, tmp_path: Path
) -> None:
    parts.serve()
    worker = host.worker(parts.plane.url)
    task = host.begun(tmp_path)
    kill(worker)
    gone(host)
    host.ask("POST", f"/tasks/{task}/cancel", {})
    assert host.fetch(task)["exitCode"] == -1
    check_task(host, task)
    check_rest(host)


def gone(host: HostParts) -> None:
    """Wait until nothing of a command lives; whoever is left is waited for by its own end."""
    for pid in host.marked():
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(descriptor)
        assert poll.poll(5000), f"process {pid} outlived its runner by five seconds"
        os.close(descriptor)
    assert host.marked() == []


# Linked runners


class Kill:
    """Kill the linked runner when the proxy sees a frame of a host task; the frame is never passed on."""

    def __init__(self, kind: type[Frame]) -> None:
        self._kind = kind
        self.victim: int | None = None
        self.done = threading.Event()

    def __call__(self, frame: Frame) -> bool:
        if self.victim is None or not isinstance(frame, self._kind):
            return True
        os.kill(self.victim, signal.SIGKILL)
        self.victim = None
        self.done.set()
        return False


@pytest.mark.parametrize(
    ("kind", "runs"),
    [(Confirmed, 1), (End, 1), (Ended, 1)],
    ids=["confirmed-not-heard", "spooled-not-reported", "reported-not-acknowledged"],
)
def test_a_linked_runner_killed_at_a_point_of_a_host_task_ends_it_once_after_its_restart(
    parts: Parts, host: HostParts, make_proxy: Callable[..., WatchedProxy], kind: type[Frame], runs: int
) -> None:
    parts.serve()
    killing = Kill(kind)
    proxy = make_proxy(watch=killing)
    runner = host.runner(proxy.url)
    killing.victim = runner.pid
    effects = host.home / "effects"
    task = host.submit(f"echo once >> {effects}; echo done")
    assert killing.done.wait(20)
    runner.wait()
    runner = host.runner(proxy.url)
    assert host.fetch(task)["stdout"] == "done\n"
    assert effects.read_text() == "once\n" * runs
    check_task(host, task, starts=(1, 2))
    runner.terminate()
    runner.wait(15)
    check_rest(host)


def test_a_linked_runner_killed_while_a_command_runs_takes_it_down_and_it_starts_again_with_a_trace(
    parts: Parts, host: HostParts, tmp_path: Path
) -> None:
    parts.serve()
    runner = host.runner(parts.plane.url)
    fifo = tmp_path / "begun"
    os.mkfifo(fifo)
    done = tmp_path / "again"
    task = host.submit(f"if [ -e {done} ]; then echo again; exit; fi; touch {done}; echo $$ > {fifo}; exec sleep 300")
    assert int(fifo.read_text()) in host.marked()
    kill(runner)
    gone(host)
    runner = host.runner(parts.plane.url)
    assert host.fetch(task)["stdout"] == "again\n"
    kinds = [record["type"] for record in trail(host, task)]
    assert (kinds.count("task.started"), kinds.count("task.requeued")) == (2, 1)
    check_task(host, task, starts=(2,))
    runner.terminate()
    runner.wait(15)
    check_rest(host)
