"""One control plane and its runners as processes, and what anybody can ask them over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

TOKEN = "f" * 64
ENDED = {"succeeded", "failed", "aborting"}
LOG_OF_A_RUN = "/v1/runs/{}/log"

COUNTER = """
import time
from sdk import CoreSDK
given = CoreSDK.Parameter.get_input_json_dict()
for number in range(given["n"]):
    CoreSDK.Result.push_data({"part": given.get("url", ""), "number": number})
    if number == given["n"] // 2:
        print("half way", flush=True)
        time.sleep(max(0, given.get("until", 0) - time.time()))
    time.sleep(given.get("each", 0))
"""
COUNTER_SCHEMA = {
    "b": "url",
    "properties": [
        {"name": "url", "type": "array", "editor": "requestList"},
        {"name": "n", "type": "integer"},
        {"name": "until", "type": "number"},
        {"name": "each", "type": "number"},
    ],
}


class Parts:
    """The processes of one plane. `plane` is the fixture's; its data directory is the control plane's too."""

    def __init__(self, plane: Any, make_package: Callable[..., bytes]) -> None:
        self.plane = plane
        self._make_package = make_package
        self.home = Path(plane.data)
        self.token_file = self.home / "runner-token"
        self.http = httpx.Client(
            base_url=plane.url, headers={"Authorization": f"Bearer {plane.key}"}, timeout=60, trust_env=False
        )

    def __enter__(self) -> Self:
        self.token_file.write_text(TOKEN)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    # processes

    def serve(self, *, data: Path | None = None) -> subprocess.Popen[str]:
        """Start the control plane and return when it listens."""
        process: subprocess.Popen[str] = self.plane.spawn(
            "serve",
            "--port",
            str(self.plane.port),
            "--data",
            str(data or self.home / "serve"),
            "--runner-token-file",
            str(self.token_file),
            until="listens on",
        )
        return process

    def runner(self, name: str, *, url: str | None = None, slots: int = 4) -> subprocess.Popen[str]:
        """Start a runner with a directory of its own and return when it is linked."""
        process: subprocess.Popen[str] = self.plane.spawn(
            "runner",
            "--url",
            url or self.plane.url,
            "--data",
            str(self.home / name),
            "--name",
            name,
            "--slots",
            str(slots),
            "--drain",
            "1",
            "--token-file",
            str(self.token_file),
            until="Linked",
        )
        return process

    # what clients do

    def upload(self, name: str, main: str, **parts: Any) -> httpx.Response:
        """Upload a Python Worker and return the answer, whatever it is."""
        body = self._make_package(main, **parts)
        return self.http.post(
            "/v1/workers", params={"name": name}, content=body, headers={"Content-Type": "application/zip"}
        )

    def push(self, name: str = "counter", main: str = COUNTER, *, wait: bool = True) -> str:
        """Upload a Python Worker and, with `wait`, see its environment built."""
        answer = self.upload(name, main, schema=COUNTER_SCHEMA)
        assert answer.status_code == 201, answer.text
        if wait:
            version = answer.json()["data"]["version"]
            built = self.http.get(f"/v1/workers/local~{name}/versions/{version}", params={"wait": 60}).json()["data"]
            assert built["status"] == "ready", built
        return f"local~{name}"

    def submit(self, worker: str, **custom: Any) -> httpx.Response:
        """Ask for a run and return the answer, whatever it is."""
        custom.setdefault("url", [{"url": "a"}])
        return self.http.post(
            f"/api/v2/workers/{worker}/runs",
            json={"input": {"parameters": {"custom": custom, "system": {"cpus": 1, "memory": 512}}}},
        )

    def start(self, worker: str, **custom: Any) -> str:
        """Start a run and return its slug."""
        answer = self.submit(worker, **custom)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["run_slug"])

    def runs(self) -> list[str]:
        """Return the slugs of all runs, newest first."""
        listed = self.http.get("/api/v2/worker-runs").json()["data"]["list"]
        return [str(run["slug"]) for run in listed]

    def run(self, slug: str) -> dict[str, Any]:
        """Return a run as it stands."""
        found: dict[str, Any] = self.http.get(f"/api/v2/worker-runs/{slug}").json()["data"]
        return found

    def ended(self, slug: str, patience: float = 45) -> dict[str, Any]:
        """Follow a run's log to its end, through any number of broken connections, and return the run."""
        until = time.monotonic() + patience
        while True:
            try:
                with self.http.stream("GET", LOG_OF_A_RUN.format(slug), params={"follow": "true"}) as log:
                    for _ in log.iter_lines():
                        assert time.monotonic() < until, f"{slug} did not end within {patience} s"
                run = self.run(slug)
                if run["status"] in ENDED:
                    return run
            except httpx.TransportError:
                assert time.monotonic() < until, "the control plane did not come back"

    def until_log_says(self, slug: str, text: str) -> None:
        """Follow a run's log until it says `text`."""
        with self.http.stream("GET", LOG_OF_A_RUN.format(slug), params={"follow": "true"}) as log:
            for line in log.iter_lines():
                if text in line:
                    return
        raise AssertionError(f"the log ended without {text!r}")

    def subtasks(self, slug: str) -> list[dict[str, Any]]:
        """Return a run's subtasks with their attempts."""
        found: list[dict[str, Any]] = self.http.get(f"/v1/runs/{slug}/subtasks").json()["data"]["list"]
        return found

    def attempts(self, slug: str) -> list[str]:
        """Return how the attempts at a run's only subtask ended."""
        (subtask,) = self.subtasks(slug)
        return [attempt["end"] for attempt in subtask["attempts"]]

    def rows(self, slug: str) -> list[dict[str, Any]]:
        """Return the rows of a run as its export has them."""
        link = self.http.get(f"/api/v2/worker-runs/{slug}/result/export", params={"format": "jsonl"})
        assert link.status_code == 200, link.text
        (url,) = link.json()["data"].values()
        return [json.loads(line) for line in self.http.get(url).text.splitlines()]


def kill(*processes: subprocess.Popen[str]) -> None:
    """End processes as a power cut would, and wait until they are gone."""
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def guests_of(directory: Path) -> list[int]:
    """Return the processes that live on file systems made of a runner's directory, which only its guests do."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                mounts = (entry / "mountinfo").read_text()
            except OSError:
                continue
            if str(directory) in mounts:
                found.append(int(entry.name))
    return found


def groups_of(pids: Sequence[int]) -> list[str]:
    """Return the control groups that belong to runners with these process ids, live or dead."""
    points = [
        line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line
    ]
    names = {f"clawplane-{pid}" for pid in pids}
    return [
        os.path.join(directory, name)
        for point in points
        for directory, children, _ in os.walk(point)
        for name in children
        if name.partition(".")[0] in names
    ]
