"""Packages are fetched once, verified, unpacked whole or not at all, and collected by size."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from clawplane.domain.errors import Unavailable
from clawplane.runner.workspace import PackageCache, PackageDamaged


class Depot:
    """Serves blobs and counts downloads."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.served: list[str] = []
        self.gate: asyncio.Event | None = None
        self.failure: Exception | None = None

    def put(self, content: bytes) -> tuple[str, str]:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest, digest

    async def download(self, key: str, to) -> str:
        self.served.append(key)
        if self.gate is not None:
            await self.gate.wait()
        to.write(self.blobs[key][: len(self.blobs[key]) // 2])
        if self.failure is not None:
            raise self.failure
        to.write(self.blobs[key][len(self.blobs[key]) // 2 :])
        return hashlib.sha256(self.blobs[key]).hexdigest()


@pytest.fixture
def depot() -> Depot:
    return Depot()


@pytest.fixture
def cache(depot: Depot, tmp_path: Path) -> PackageCache:
    return PackageCache(tmp_path, depot.download, max_bytes=1 << 20)


async def test_a_package_is_unpacked_with_its_modes(cache: PackageCache, depot: Depot, make_package) -> None:
    os.umask(0o077)
    try:
        path = await cache.ensure(*depot.put(make_package(main__py="print()", main="\x7fELF")))
    finally:
        os.umask(0o022)
    assert (path / "main.py").read_text() == "print()"
    assert (path / "main").stat().st_mode & 0o777 == 0o755
    assert path.stat().st_mode & 0o777 == 0o755


async def test_a_package_is_fetched_once_however_many_ask_at_once(
    cache: PackageCache, depot: Depot, make_package
) -> None:
    key = depot.put(make_package(main__py=""))
    depot.gate = asyncio.Event()
    asking = [asyncio.create_task(cache.ensure(*key)) for _ in range(5)]
    await asyncio.sleep(0)
    depot.gate.set()
    assert len(set(await asyncio.gather(*asking))) == 1
    await cache.ensure(*key)
    assert len(depot.served) == 1


async def test_a_package_of_an_earlier_process_is_used_again(
    cache: PackageCache, depot: Depot, make_package, tmp_path: Path
) -> None:
    key = depot.put(make_package(main__py=""))
    await cache.ensure(*key)
    await PackageCache(tmp_path, depot.download, max_bytes=1 << 20).ensure(*key)
    assert len(depot.served) == 1


async def test_bytes_that_are_not_those_uploaded_are_refused(cache: PackageCache, depot: Depot, make_package) -> None:
    _, digest = depot.put(make_package(main__py="good"))
    depot.blobs[digest] = make_package(main__py="evil")
    with pytest.raises(PackageDamaged, match="SHA-256"):
        await cache.ensure(digest, digest)


async def test_a_download_that_broke_off_leaves_nothing_and_is_tried_again(
    cache: PackageCache, depot: Depot, make_package, tmp_path: Path
) -> None:
    key = depot.put(make_package(main__py=""))
    depot.failure = Unavailable("gone")
    with pytest.raises(Unavailable):
        await cache.ensure(*key)
    assert list((tmp_path / "arriving").iterdir()) == []
    assert list((tmp_path / "packages").iterdir()) == []
    depot.failure = None
    assert (await cache.ensure(*key)).is_dir()


async def test_a_name_that_is_no_hash_never_becomes_a_path(cache: PackageCache) -> None:
    with pytest.raises(PackageDamaged):
        await cache.ensure("key", "../../etc")


async def test_what_a_dead_process_left_behind_is_removed_at_start(depot: Depot, tmp_path: Path) -> None:
    (tmp_path / "arriving" / "half.tree").mkdir(parents=True)
    PackageCache(tmp_path, depot.download, max_bytes=1)
    assert list((tmp_path / "arriving").iterdir()) == []


async def test_the_longest_unused_package_goes_first_and_never_one_in_use(depot: Depot, make_package, tmp_path) -> None:
    cache = PackageCache(tmp_path, depot.download, max_bytes=2500)
    keys = [depot.put(make_package(main__py=f"{number}" * 1000)) for number in range(4)]
    with cache.using(keys[0][1]):
        paths = [await cache.ensure(*key) for key in keys[:3]]
        assert [path.exists() for path in paths] == [True, False, True]
    await cache.ensure(*keys[3])
    assert [path.exists() for path in paths] == [False, False, True]
