"""What the first runner's build locked is what every other runner installs, whatever the index offers by then."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PRINT_VERSIONS = """
from importlib.metadata import version
print("versions", *(f"{name}={version(name)}" for name in ("alpha", "grpcio", "protobuf")), flush=True)
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


class Index:
    """A package index on loopback with small packages, the SDK's libraries among them: every plan has those."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        for name in ("alpha", "grpcio", "protobuf"):
            (root / "simple" / name).mkdir(parents=True)

    def add(self, name: str, version: str) -> None:
        page = self.root / "simple" / name
        stem = f"{name}-{version}"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        with zipfile.ZipFile(page / f"{stem}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}.py", "")
            archive.writestr(f"{stem}.dist-info/METADATA", metadata)
            archive.writestr(f"{stem}.dist-info/WHEEL", wheel)
            archive.writestr(f"{stem}.dist-info/RECORD", "")
        files = sorted(page.glob("*.whl"))
        links = [f'<a href="{f.name}#sha256={hashlib.sha256(f.read_bytes()).hexdigest()}">{f.name}</a>' for f in files]
        (page / "index.html").write_text("<!DOCTYPE html>\n" + "\n".join(links))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    root = tmp_path / "index"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    local = Index(root, f"http://127.0.0.1:{server.server_address[1]}/simple")
    local.add("grpcio", "1.85.1")
    local.add("protobuf", "7.36.2")
    local.add("alpha", "1.0")
    yield local
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def plane(make_plane: Callable[..., Any]) -> Any:
    plane = make_plane()
    (plane.data / "runner-token").write_text("f" * 64)
    return plane


def serve(plane: Any) -> None:
    token = str(plane.data / "runner-token")
    port, data = str(plane.port), str(plane.data)
    plane.spawn("serve", "--port", port, "--data", data, "--runner-token-file", token, until="listens on")


def runner(plane: Any, name: str, index: Index) -> Any:
    """Start a runner whose host is configured to take packages from the index, and from nowhere else."""
    own = {key: value for key, value in plane.environment.items() if not key.startswith(("UV_", "PIP_"))}
    place = ("--data", str(plane.data / name), "--name", name)
    access = ("--url", plane.url, "--token-file", str(plane.data / "runner-token"))
    environment = own | {"UV_NO_CONFIG": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": index.url}
    return plane.spawn("runner", *access, *place, until="Linked", environment=environment)


def versions_seen(plane: Any, worker: str) -> dict[str, str]:
    """Run a Worker and return the versions it finds."""
    slug = plane.start(worker)
    run = plane.wait(slug)
    log = plane.log(slug)
    assert run["status"] == "succeeded", log
    (line,) = [line for line in log.splitlines() if "versions alpha=" in line]
    return dict(word.split("=") for word in line.partition("versions ")[2].split())


def test_a_second_runner_runs_with_the_versions_that_the_first_one_locked(plane: Any, index: Index) -> None:
    serve(plane)
    first = runner(plane, "first", index)
    worker = plane.push("pinned-by-its-lock", PRINT_VERSIONS, files={"requirements.txt": "alpha\n"})
    locked = {"alpha": "1.0", "grpcio": "1.85.1", "protobuf": "7.36.2"}
    assert versions_seen(plane, worker) == locked
    first.terminate()
    first.wait(20)

    index.add("alpha", "2.0")
    index.add("grpcio", "1.99.0")
    runner(plane, "second", index)
    assert versions_seen(plane, worker) == locked
    fresh = plane.push("resolved-anew", PRINT_VERSIONS, files={"requirements.txt": "alpha>=1\n"})
    assert versions_seen(plane, fresh) == locked | {"alpha": "2.0", "grpcio": "1.99.0"}
