"""A polling runner that is killed and started again has lost what it ran: that is known with its first word."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_parts import Parts, kill
from host_history import check_rest, check_task, trail
from host_parts import HostParts

ONCE = 'if [ -e {0} ]; then kill -0 "$(cat {0})" 2>&- && echo twice; echo again; exit; fi; echo $$ > {0}; '
"""What makes a command go on the first time, say "again" the second, and "twice" when the first still lives then."""
LONG_MS = 3_600_000


def begun(host: HostParts, tmp_path: Path, policy: str) -> str:
    """Submit a task whose first run only ends when it is killed, and return when it runs."""
    return host.begun(tmp_path, ONCE.format(tmp_path / "pid"), timeout=LONG_MS, onLoss=policy)


@pytest.mark.parametrize("policy", ["requeue", "fail"])
def test_a_polling_runner_killed_while_a_command_runs_has_it_offered_again_or_failed_when_it_starts_again(
    parts: Parts, host: HostParts, tmp_path: Path, policy: str
) -> None:
    """Its lease would last an hour, for a runner that is heard of is not silent."""
    parts.serve()
    worker = host.worker(parts.plane.url)
    task = begun(host, tmp_path, policy)
    kill(worker)
    worker = host.worker(parts.plane.url)
    result = host.fetch(task)
    kinds = [record["type"] for record in trail(host, task)]
    if policy == "requeue":
        assert (result["stdout"], result["exitCode"]) == ("again\n", 0)
        assert (kinds.count("task.started"), kinds.count("task.requeued")) == (2, 1)
    else:
        assert result["exitCode"] == -1
        assert (kinds.count("task.started"), kinds.count("task.requeued")) == (1, 0)
    check_task(host, task, starts=(1, 2))
    worker.terminate()
    assert worker.wait(6) == 0
    check_rest(host)


def test_a_task_that_is_held_waits_for_a_late_report_after_its_runner_was_killed(
    parts: Parts, host: HostParts, tmp_path: Path
) -> None:
    parts.serve()
    worker = host.worker(parts.plane.url)
    task = begun(host, tmp_path, "hold")
    kill(worker)
    worker = host.worker(parts.plane.url)
    quick = host.submit("echo quick")
    assert host.fetch(quick)["stdout"] == "quick\n"  # the runner was heard, and is at work again
    assert host.state(task) == "running"
    kinds = [record["type"] for record in trail(host, task)]
    assert kinds == ["task.created", "task.started", "task.recovery-preserved"]
    host.report(task, stdout="by a person\n")
    assert host.fetch(task)["stdout"] == "by a person\n"
    check_task(host, task)
    worker.terminate()
    assert worker.wait(6) == 0
    check_rest(host)
