"""`clawplane selftest` as an operator runs it."""

from __future__ import annotations

import json
import subprocess
import sys


def test_the_report_is_one_json_value() -> None:
    command = [sys.executable, "-m", "clawplane", "selftest", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["cgroup_mode"] in ("v2", "v1", "none")
    assert report["features"]
    assert done.stderr == b""
