"""`clawplane selftest` as an operator runs it."""

from __future__ import annotations

import json
import subprocess
import sys

from clawplane.cli.selftest import _with
from clawplane.sandbox.selftest import Report, Result
from clawplane.sandbox.selftest.report import Status


def test_the_report_is_one_json_value() -> None:
    command = [sys.executable, "-m", "clawplane", "selftest", "--sandbox-only", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["cgroup_mode"] in ("v2", "v1", "none")
    assert report["features"]
    assert done.stderr == b""


def result(number: int, status: Status) -> Result:
    return Result(number=number, title="t", expected="e", status=status, happened="", critical=True)


def test_what_was_tried_on_a_plane_stands_in_the_report_where_it_was_missing() -> None:
    bare = [result(7, "held"), result(1, "not tried"), result(70, "not tried"), result(5, "not tried")]
    report = Report(user="u", cgroup_mode="v1", features=[], results=bare)
    whole = _with(report, [result(1, "broken"), result(5, "held"), result(5, "held")])
    assert [(each.number, each.status) for each in whole.results] == [
        (1, "broken"),
        (5, "held"),
        (5, "held"),
        (7, "held"),
        (70, "not tried"),
    ]
    assert report.ok
    assert not whole.ok
