"""Environments of packages: planned once per content, compiled beside, never collected while in use."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clawplane.builder.errors import BuildFailed, ManifestRefused
from clawplane.runner.environments import Environments, read_plan


@dataclass(frozen=True)
class Installed:
    fingerprint: str
    compiled: bool


@dataclass
class RecordingCache:
    """Says what it was asked."""

    compiled: bool = False
    asked: list[object] = field(default_factory=list)
    compiling: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    kept: set[str] = field(default_factory=set)

    async def ensure(self, plan, *, launcher, on_log, on_progress) -> Installed:
        self.asked.append(plan)
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


@pytest.fixture
async def environments(cache) -> Environments:
    return Environments(cache, launcher=None, machine="x86_64")


async def ensure(environments: Environments, package: Path) -> Installed:
    return await environments.ensure(package, "a" * 64, "python", on_log=lambda line: None)


async def test_a_known_packages_files_are_not_read_again(environments, cache, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    await ensure(environments, tmp_path)
    (tmp_path / "requirements.txt").write_text("something else ( entirely")
    await ensure(environments, tmp_path)
    assert cache.asked[0] is cache.asked[1]


async def test_byte_code_is_made_beside_the_first_use(environments, cache, tmp_path: Path) -> None:
    await ensure(environments, tmp_path)
    async with asyncio.timeout(5):
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
    async with asyncio.timeout(5):
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
