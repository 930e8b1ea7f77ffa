"""A launcher without isolation for the builder's own tests: real processes, real gate, real sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import http.server
import io
import os
import re
import signal
import socket
import tarfile
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.indexes import PackageIndexes
from clawplane.builder.launcher import Door, Outcome, proxy_variables
from clawplane.builder.tools import Tools, find_tools


@dataclass
class Step:
    argv: list[str]
    environment: dict[str, str]
    writable: list[Path]
    online: bool


@dataclass
class PlainLauncher:
    """Runs steps as ordinary processes; what a sandbox forbids is recorded in `steps` instead."""

    steps: list[Step] = field(default_factory=list)
    online: bool = True
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        readable: Sequence[Path],
        writable: Sequence[Path],
        gate: Door | None,
        on_output: Callable[[bytes], Awaitable[None]],
    ) -> Outcome:
        async with AsyncExitStack() as stack:
            variables = dict(environment)
            port = 9
            if gate is not None and self.online:
                listener = socket.create_server(("127.0.0.1", 0))
                port = listener.getsockname()[1]
                await stack.enter_async_context(gate.serving(listener))
            variables |= proxy_variables(port)
            self.steps.append(Step(list(argv), variables, list(writable), gate is not None))
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=variables,
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            assert process.stdout is not None
            self.started.set()
            try:
                while chunk := await process.stdout.read(65536):
                    await on_output(chunk)
                code = await process.wait()
            except asyncio.CancelledError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                raise
        return Outcome(code) if code >= 0 else Outcome(None, f"killed by signal {-code}")


@pytest.fixture
def launcher() -> PlainLauncher:
    return PlainLauncher()


@pytest.fixture(scope="session")
def tools() -> Tools:
    return find_tools()


@dataclass
class LocalIndex:
    """A package index on loopback, made of directories."""

    root: Path
    url: str
    requests: list[str]

    def add_wheel(
        self, name: str, version: str, files: Mapping[str, str] | None = None, requires: Sequence[str] = ()
    ) -> None:
        stem = f"{name.replace('-', '_')}-{version}"
        content = dict(files if files is not None else {f"{name.replace('-', '_')}.py": f"version = {version!r}\n"})
        metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
        metadata += [f"Requires-Dist: {wanted}\n" for wanted in requires]
        content[f"{stem}.dist-info/METADATA"] = "".join(metadata)
        content[f"{stem}.dist-info/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        record = f"{stem}.dist-info/RECORD"
        content[record] = "".join(f"{path},,\n" for path in [*content, record])
        with zipfile.ZipFile(self._page(name) / f"{stem}-py3-none-any.whl", "w") as archive:
            for path, text in content.items():
                archive.writestr(path, text)
        self._list(name)

    def add_source(self, name: str, version: str, hostile: str) -> None:
        """Add a source distribution whose build runs `hostile` first and then makes a proper wheel."""
        backend = _BACKEND.format(name=name, version=version, hostile=hostile)
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        files = {"pyproject.toml": project, "backend.py": backend}
        files["PKG-INFO"] = f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n"
        with tarfile.open(self._page(name) / f"{name}-{version}.tar.gz", "w:gz") as archive:
            for path, text in files.items():
                member = tarfile.TarInfo(f"{name}-{version}/{path}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        self._list(name)

    def hashes(self, name: str) -> set[str]:
        """Return the hashes of a package's files, as an installer writes them."""
        files = [file for file in self._page(name).iterdir() if file.name != "index.html"]
        return {f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files}

    def name_no_hashes(self, name: str) -> None:
        """Let the page of a package list its files only."""
        page = self._page(name) / "index.html"
        page.write_text(re.sub("#sha256=[0-9a-f]*", "", page.read_text()))

    def _list(self, name: str) -> None:
        files = sorted(file for file in self._page(name).iterdir() if file.name != "index.html")
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        links = [
            f'<a href="{file.name}#sha256={digest}">{file.name}</a>'
            for file, digest in zip(files, digests, strict=True)
        ]
        (self._page(name) / "index.html").write_text("<!DOCTYPE html>\n" + "\n".join(links))

    def _page(self, name: str) -> Path:
        page = self.root / "simple" / name
        page.mkdir(parents=True, exist_ok=True)
        return page


_BACKEND = """
import os, sys, zipfile

def build_wheel(directory, settings=None, metadata=None):
    attack()
    stem = "{name}-{version}"
    file = stem + "-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, file), "w") as archive:
        archive.writestr("{name}.py", "version = '{version}'\\n")
        archive.writestr(stem + ".dist-info/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        archive.writestr(stem + ".dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(stem + ".dist-info/RECORD", "")
    return file

def attack():
{hostile}
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LocalIndex]:
    """An index that has small packages called grpcio, protobuf and typing-extensions, because every plan wants them."""
    root = tmp_path / "index"
    (root / "simple").mkdir(parents=True)
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(root))

        def end_headers(self) -> None:
            self.send_header("Cache-Control", "max-age=0")
            super().end_headers()

        def log_message(self, *arguments: Any) -> None:
            requests.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    local = LocalIndex(root, f"http://127.0.0.1:{server.server_address[1]}/simple", requests)
    local.add_wheel("grpcio", "1.85.1", requires=["typing-extensions"])
    local.add_wheel("protobuf", "7.36.2")
    local.add_wheel("typing-extensions", "4.16.0")
    yield local
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def local_tools(tools: Tools, index: LocalIndex) -> Tools:
    return dataclasses.replace(tools, indexes=PackageIndexes(default=index.url), environ={})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path, local_tools: Tools) -> EnvironmentCache:
    """A cache that is fed by the index on loopback."""
    return EnvironmentCache(root, local_tools)


@pytest.fixture
def lines() -> list[str]:
    """Pass `lines.append` as on_log."""
    return []
