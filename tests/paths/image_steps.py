"""Do what a Dockerfile says, without an engine: its steps on a throw-away layer over this machine's own root.

Run as `unshare --mount python3 image_steps.py PROJECT` (an ordinary user adds --map-root-user). The base image is
this machine, which has a Python of the same version; everything else is done word for word: COPY, RUN, WORKDIR, ENV,
USER, ENTRYPOINT with CMD, HEALTHCHECK, STOPSIGNAL. Then the container is "recreated": only its volume stays.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

PROJECT = Path(sys.argv[1])
TOKEN = "t" * 64
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ADDRESS = "http://127.0.0.1:3456"
_SIOCSIFFLAGS, _IFF_UP, _CLONE_NEWNET = 0x8914, 1, 0x40000000


def layer() -> None:
    """Enter a root whose changes are kept in memory alone."""
    base = Path("/mnt")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(base)], check=True)
    for name in ("upper", "work", "root", "context"):
        (base / name).mkdir()
    copied = (PROJECT / ".dockerignore").read_text().splitlines()
    for name in [line[1:] for line in copied if line.startswith("!")]:
        source, target = PROJECT / name, base / "context" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    options = f"lowerdir=/,upperdir={base}/upper,workdir={base}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(base / "root")], check=True)
    for name in ("proc", "dev", "sys"):
        subprocess.run(["mount", "--rbind", f"/{name}", str(base / "root" / name)], check=True)
    (base / "root" / "context").mkdir()
    subprocess.run(["mount", "--bind", str(base / "context"), str(base / "root" / "context")], check=True)
    os.chroot(base / "root")
    os.chdir("/")
    Path("/tmp").mkdir(exist_ok=True)


def loopback() -> None:
    """Take the loopback of this network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))


def built(stages: list[list[Any]], run_environment: dict[str, str]) -> dict[str, str]:
    """Do the steps of every stage and return the environment of the last one."""
    variables: dict[str, str] = {}
    for stage in stages:
        variables = {}
        directory = "/"
        for step in stage:
            if step.name == "WORKDIR":
                directory = step.text
                Path(directory).mkdir(parents=True, exist_ok=True)
            elif step.name == "ENV":
                variables |= dict(word.split("=", 1) for word in step.text.split())
            elif step.name == "RUN":
                subprocess.run(["sh", "-c", step.text], cwd=directory, env=run_environment | variables, check=True)
            elif step.name == "COPY" and not step.text.startswith("--from="):
                *sources, target = step.words()
                for source in sources:
                    copy(Path("/context") / source, Path(directory) / target, into=target.endswith("/"))
    return variables


def copy(source: Path, target: Path, *, into: bool) -> None:
    """Copy as COPY does: a directory's content, or a file."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target / source.name if into else target)


class Container:
    """The started image."""

    def __init__(self, last: dict[str, Any], variables: dict[str, str]) -> None:
        self._last = last
        self._variables = variables
        user = last["USER"].text.partition(":")[0]
        self._user = int(user) if _may_be(int(user)) else None

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and return when its health check succeeds."""
        words = self._last["ENTRYPOINT"].words() + self._last["CMD"].words()
        process = subprocess.Popen(
            words, env=self._variables | {"WORKER_TOKEN": TOKEN}, user=self._user, group=self._user, umask=0o022,
            executable=shutil.which(words[0], path=self._variables["PATH"]),
        )  # fmt: skip
        check = json.loads(self._last["HEALTHCHECK"].text.partition("CMD ")[2])
        until = time.monotonic() + 20
        while subprocess.run(check, env=self._variables, stderr=subprocess.DEVNULL, check=False).returncode:
            assert process.poll() is None, "it ended before it was well"
            assert time.monotonic() < until, "it was not well within 20 s"
            time.sleep(0.1)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Stop it as an engine does."""
        process.send_signal(getattr(signal, self._last["STOPSIGNAL"].text))
        assert process.wait(3) == 0


def _may_be(user: int) -> bool:
    """Tell whether this user namespace knows such a user."""
    ranges = [list(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(first <= user < first + count for first, _, count in ranges)


def asked(path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the Task API."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(ADDRESS + path, data, headers), timeout=5) as answer:
        return json.load(answer)


def main() -> None:
    """Build, start, submit, recreate, and find the task again."""
    spec = importlib.util.spec_from_file_location("files", PROJECT / "tests" / "shape" / "deployment_files.py")
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    sys.modules["files"] = reader
    spec.loader.exec_module(reader)
    stages = reader.dockerfile((PROJECT / "docker" / "Dockerfile").read_text())
    layer()
    variables = built(
        stages, dict(os.environ) | {"PATH": BASE_PATH}
    )  # installing needs this machine's network; what follows does not
    assert ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0
    loopback()
    container = Container({step.name: step for step in stages[-1]}, variables)
    process = container.start()
    task = asked("/tasks", {"command": "echo kept"})["taskId"]
    container.stop(process)
    process = container.start()  # another container over the same volume
    claimed = asked("/worker/poll?wait=1000")
    assert (claimed["id"], claimed["command"]) == (task, "echo kept")
    modes = {str(path): oct(path.stat().st_mode & 0o777) for path in (Path("/data/clawplane"),)}
    container.stop(process)
    print(json.dumps({"kept": True, "modes": modes}))


if __name__ == "__main__":
    main()
