"""Environments of packages: planned once per content, compiled beside, never collected while in use."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clawplane.builder.errors import BuildFailed, ManifestRefused
from clawplane.runner.environments import Environments, read_plan
from clawplane.runner.locks import LARGEST_LOCK


@dataclass(frozen=True)
class Installed:
    fingerprint: str
    compiled: bool


@dataclass
class RecordingCache:
    """Says what it was asked."""

    compiled: bool = False
    asked: list[object] = field(default_factory=list)
    locks: list[str | None] = field(default_factory=list)
    is_there: bool = False
    compiling: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    kept: set[str] = field(default_factory=set)

    async def find(self, plan) -> Installed | None:
        return Installed("f" * 64, self.compiled) if self.is_there else None

    async def ensure(self, plan, *, lock, launcher, on_log, on_progress) -> Installed:
        self.asked.append(plan)
        self.locks.append(lock)
        return Installed("f" * 64, self.compiled)

    async def compile(self, environment, *, launcher) -> None:
        self.compiling.set()
        if self.failure is not None:
            raise self.failure

    async def collect(self, *, max_age, max_bytes, in_use) -> None:
        self.kept = set(in_use)


@pytest.fixture
async def cache() -> RecordingCache:
    return RecordingCache()


class Depot:
    """Serves blobs by their keys and counts the downloads."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.served: list[str] = []

    def put(self, content: bytes) -> str:
        key = f"locks/{hashlib.sha256(content).hexdigest()}"
        self.blobs[key] = content
        return key

    async def download(self, key: str, to) -> str:
        self.served.append(key)
        to.write(self.blobs[key])
        return hashlib.sha256(self.blobs[key]).hexdigest()


@pytest.fixture
def depot() -> Depot:
    return Depot()


@pytest.fixture
async def environments(cache, depot) -> Environments:
    return Environments(cache, None, depot.download, machine="x86_64")


async def ensure(environments: Environments, package: Path, lock_key: str = "") -> Installed:
    return await environments.ensure(package, "a" * 64, "python", lock_key=lock_key, on_log=lambda line: None)


async def test_a_known_packages_files_are_not_read_again(environments, cache, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    await ensure(environments, tmp_path)
    (tmp_path / "requirements.txt").write_text("something else ( entirely")
    await ensure(environments, tmp_path)
    assert cache.asked[0] is cache.asked[1]


async def test_an_absent_environment_is_made_from_the_lock_of_its_version(environments, cache, depot, tmp_path) -> None:
    await ensure(environments, tmp_path, depot.put(b"six==1.17.0\n"))
    assert cache.locks == ["six==1.17.0\n"]
    await environments.close()


async def test_an_environment_that_is_here_is_used_without_asking_anybody(environments, cache, depot, tmp_path) -> None:
    cache.is_there = True
    await ensure(environments, tmp_path, depot.put(b"six==1.17.0\n"))
    assert (depot.served, cache.asked) == ([], [])
    await environments.close()


async def test_a_version_without_a_lock_is_resolved_here(environments, cache, depot, tmp_path) -> None:
    await ensure(environments, tmp_path)
    assert (depot.served, cache.locks) == ([], [None])
    await environments.close()


@pytest.mark.parametrize(
    ("stored", "sent", "words"),
    [
        (b"six==1.17.0", b"six==1.16.0", "other bytes than were stored"),
        (b"six==1.17.0", b"#" * (LARGEST_LOCK + 1), "is larger than 16777216 bytes"),
        (b"\xff", b"\xff", "is not text"),
    ],
)
async def test_a_lock_that_arrives_damaged_builds_nothing(
    environments, cache, depot, tmp_path, stored: bytes, sent: bytes, words: str
) -> None:
    key = depot.put(stored)
    depot.blobs[key] = sent
    with pytest.raises(BuildFailed, match=words):
        await ensure(environments, tmp_path, key)
    assert cache.asked == []


async def test_byte_code_is_made_beside_the_first_use(environments, cache, tmp_path: Path) -> None:
    await ensure(environments, tmp_path)
    async with asyncio.timeout(30):
        await cache.compiling.wait()
    await environments.close()


async def test_an_environment_with_byte_code_is_left_alone(environments, cache, tmp_path: Path) -> None:
    cache.compiled = True
    await ensure(environments, tmp_path)
    await environments.close()
    assert not cache.compiling.is_set()


async def test_a_compilation_that_fails_disturbs_nobody(environments, cache, tmp_path: Path, caplog) -> None:
    cache.failure = BuildFailed("no room")
    await ensure(environments, tmp_path)
    async with asyncio.timeout(30):
        await cache.compiling.wait()
    await environments.close()
    assert "stays without byte-code" in caplog.text


async def test_what_is_in_use_is_not_collected(environments, cache, tmp_path: Path) -> None:
    installed = await ensure(environments, tmp_path)
    await environments.close()
    with environments.using(installed):
        await environments.collect(max_age=1, max_bytes=1, keep={"layer"})
        assert cache.kept == {installed.fingerprint, "layer"}
    await environments.collect(max_age=1, max_bytes=1, keep=set())
    assert cache.kept == set()


def test_a_compiled_worker_for_another_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "main").write_bytes(b"\x7fELF\x02\x01" + bytes(10) + b"\x02\x00\xb7\x00" + bytes(60))
    with pytest.raises(ManifestRefused, match="built for aarch64"):
        read_plan(tmp_path, "go", "x86_64")


def test_a_dependency_file_of_a_megabyte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ManifestRefused, match="larger than"):
        read_plan(tmp_path, "python", "x86_64")
