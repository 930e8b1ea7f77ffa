"""How clawplane is operated: start, readiness, keys, refusal of a second server, stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest


def test_up_ends_within_ten_seconds_of_sigint_and_leaves_no_process(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    up = plane.up()
    worker = plane.push("sleeper", "import time; time.sleep(1000)")
    plane.start(worker)
    started = time.monotonic()
    up.send_signal(signal.SIGINT)
    assert up.wait(20) == 0
    assert time.monotonic() - started < 10
    assert _processes_that_name(str(plane.data)) == []


def test_what_ran_when_up_was_stopped_runs_again_at_the_next_start(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    up = plane.up()
    worker = plane.push(
        "counter",
        "import sys, time\nfrom sdk import CoreSDK\n"
        "CoreSDK.Result.push_data({'n': 1})\nprint('working', flush=True)\ntime.sleep(3)\n",
    )
    slug = plane.start(worker)
    with plane.http() as http, http.stream("GET", f"/v1/runs/{slug}/log", params={"follow": "true"}) as log:
        for line in log.iter_lines():
            if "working" in line:
                break
    up.send_signal(signal.SIGTERM)
    up.wait(20)
    plane.up()
    run = plane.wait(slug)
    assert (run["status"], run["results"]) == ("succeeded", 1)


def test_health_is_503_with_the_reason_until_a_runner_is_there(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    plane.spawn("serve", "--port", str(plane.port), "--data", str(plane.data), until="listens on")
    answer = httpx.get(f"{plane.url}/healthz", trust_env=False)
    assert answer.status_code == 503
    assert "runner" in answer.json()["reason"]


def test_a_second_server_on_the_same_data_refuses_and_says_who_holds_it(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    first = plane.spawn("serve", "--port", str(plane.port), "--data", str(plane.data), until="listens on")
    second = plane.cli("serve", "--port", "1", "--data", str(plane.data), check=False)
    assert second.returncode == 78
    assert str(first.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_that_is_taken_is_named_with_the_way_out(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    plane.spawn("serve", "--port", str(plane.port), "--data", str(plane.data), until="listens on")
    refused = plane.cli("serve", "--port", str(plane.port), "--data", str(plane.data / "other"), check=False)
    assert refused.returncode == 78
    assert "--port" in refused.stderr


def test_the_first_start_prints_a_key_once_and_the_local_command_line_needs_none(
    make_plane: Callable[..., Any],
) -> None:
    plane = make_plane()
    environment = {name: value for name, value in plane.environment.items() if name != "CLAWPLANE_API_KEY"}
    with (plane.data / "stdout").open("w+") as said:
        up = subprocess.Popen(
            [*_up(plane)], env=environment, stdout=said, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        plane.processes.append(up)
        assert up.stderr is not None
        for line in up.stderr:
            if "Ready" in line:
                break
        said.seek(0)
        key = said.read().strip()
    assert key.startswith("scraper_api_")
    listed = subprocess.run(
        [str(_clawplane()), "workers", "list", "--json"],
        env={name: value for name, value in environment.items() if name != "CLAWPLANE_URL"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (listed.returncode, listed.stdout) == (0, "[]\n")
    assert httpx.get(f"{plane.url}/api/v2/workers", headers={"api-key": key}, trust_env=False).json()["code"] == 0


def test_secrets_on_disk_are_readable_by_their_owner_only(plane: Any) -> None:
    for name in ("runner-token", "connection.json", "clawplane.db"):
        assert stat.S_IMODE((plane.data / name).stat().st_mode) & 0o077 == 0, name


def test_no_secret_is_in_an_argument_or_an_environment_of_a_child(plane: Any) -> None:
    token = (plane.data / "runner-token").read_text().strip()
    for pid in _processes_that_name(str(plane.data)):
        try:
            command, environment = (
                Path(f"/proc/{pid}/{file}").read_text(errors="replace") for file in ("cmdline", "environ")
            )
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        assert token not in command + environment
        assert plane.key not in command
        if "\0runner\0" in command:
            assert plane.key not in environment


def test_a_revoked_key_is_refused_at_once(plane: Any) -> None:
    secret = plane.cli("keys", "create", "short-lived").stdout.strip()
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{plane.url}/api/v2/workers", headers=headers, trust_env=False).status_code == 200
    key = next(key for key in plane.json("keys", "list") if key["name"] == "short-lived")
    plane.cli("keys", "revoke", key["id"])
    refused = httpx.get(f"{plane.url}/api/v2/workers", headers=headers, trust_env=False)
    assert (refused.status_code, refused.json()["code"]) == (401, 12002)


def test_doctor_reports_this_host_for_people_and_machines(plane: Any) -> None:
    findings = plane.json("doctor")
    assert {"id", "ok", "critical", "title", "cause", "remedy"} <= set(findings[0])
    assert "user namespaces" in plane.cli("doctor").stdout.lower()


@pytest.fixture
def others_home() -> Iterator[Path]:
    """A directory that every user reaches; pytest closes its own ones whenever it starts anywhere."""
    home = Path(tempfile.mkdtemp(prefix="clawplane-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming an ordinary user needs root; this run already is one")
def test_an_ordinary_user_runs_a_worker_isolated(make_plane: Callable[..., Any], others_home: Path) -> None:
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    plane = make_plane(name=str(others_home / "plane"), prefix=prefix)
    for path in [plane.data, *plane.data.rglob("*")]:
        shutil.chown(path, 65534, 65534)
    plane.up()
    worker = plane.push(
        "whoami",
        "import os, socket\nfrom sdk import CoreSDK\n"
        "pids = [name for name in os.listdir('/proc') if name.isdigit()]\n"
        "CoreSDK.Result.push_data({'uid': os.getuid(), 'pids': len(pids)})\n",
    )
    run = plane.run(worker)
    assert run["status"] == "succeeded", plane.log(run["slug"])
    row = plane.rows(run["slug"])[0]
    assert row["uid"] != 0
    assert row["pids"] < 10


def _clawplane() -> Path:
    return Path(sys.executable).with_name("clawplane")


def _up(plane: Any) -> list[str]:
    return [str(_clawplane()), "up", "--port", str(plane.port), "--data", str(plane.data)]


def _processes_that_name(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if text in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_the_first_start_tries_the_host_and_sessions_wait_for_the_outcome_in_words(
    make_plane: Callable[..., Any],
) -> None:
    plane = make_plane()
    memory = plane.data / "runner" / "selftest.json"
    memory.unlink()
    plane.up()
    done = plane.cli("session", "create", "--profile", "bare")
    session = done.stdout.split()[-1]
    told = plane.cli("exec", "python", "40 + 2", "--session", session)
    assert told.stdout == "42\n"
    assert json.loads(memory.read_text())["broken"] == []
    with plane.http() as http:
        assert http.get("/healthz").json() == {"ready": True, "reason": "", "sessions": ""}
    (finding,) = [each for each in plane.json("doctor", check=False) if each["id"] == "selftest"]
    assert finding["ok"]


def test_a_host_that_failed_is_told_by_doctor_and_tried_again_at_the_next_start(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    memory = plane.data / "runner" / "selftest.json"
    verdict = json.loads(memory.read_text())
    verdict["broken"] = [{"number": 7, "title": "looks for files of the host", "happened": "it got done"}]
    memory.write_text(json.dumps(verdict))
    doctor = plane.cli("doctor", check=False).stdout
    assert "selftest item 7 (looks for files of the host: it got done)" in doctor
    assert "clawplane selftest" in doctor
    plane.up()
    session = plane.cli("session", "create", "--profile", "bare").stdout.split()[-1]
    assert plane.cli("exec", "python", "1", "--session", session).stdout == "1\n"
    assert json.loads(memory.read_text())["broken"] == []
