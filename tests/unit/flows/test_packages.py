"""Uploads: versions count up, what is refused leaves nothing, versions are immutable."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest
from plane import Plane, package, plane

from clawplane.domain.access import Caller, Scope
from clawplane.domain.errors import Conflict, InvalidArgument, NotFound, Unchanged
from clawplane.domain.leases import JobKind
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.workers import BuildSpec
from clawplane.flows.packages import Details, Spooled, next_version, worker_name

CALLER = Caller(key_id="k", owner="owner", scopes=frozenset({Scope.WORKERS}))
STRANGER = Caller(key_id="s", owner="stranger", scopes=frozenset({Scope.WORKERS}))


def spooled(here: Plane, content: bytes) -> Spooled:
    path = here.directory / "spool" / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    return Spooled(path, path.name, len(content))


async def push(here: Plane, content: bytes, name: str = "demo", version: str | None = None) -> tuple[str, bool]:
    _, stored, new = await here.flows.packages.push(
        CALLER, name, spooled(here, content), version=version, details=Details(title="Demo")
    )
    return stored.version, new


async def test_versions_count_up_from_v1_0_1(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        assert await push(here, package()) == ("v1.0.1", True)
        assert await push(here, package(main="a = 1\n")) == ("v1.0.2", True)
        assert await push(here, package(main="a = 2\n"), version="v2.5.0") == ("v2.5.0", True)
        assert await push(here, package(main="a = 3\n")) == ("v2.5.1", True)


def test_the_next_number_is_after_the_highest_not_after_the_newest() -> None:
    assert next_version([]) == "v1.0.1"
    assert next_version(["v1.0.9", "v1.0.10", "v1.0.2"]) == "v1.0.11"


async def test_pushing_the_same_bytes_again_stores_nothing(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        await push(here, package())
        assert await push(here, package()) == ("v1.0.1", False)


async def test_an_upload_queues_its_build_with_what_a_runner_needs(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        content = package()
        await push(here, content)
        runner = here.runner()
        await runner.connect()
        offer = await runner.next_offer()
        spec = msgspec.msgpack.decode(offer.spec, type=BuildSpec)
        assert (offer.kind, spec.version, spec.language) == (JobKind.BUILD, "v1.0.1", "python")
        stored = b"".join([chunk async for chunk in here.store.blobs.read(spec.package_key)])
        assert stored == content
        assert spec.package_sha256 == hashlib.sha256(content).hexdigest()


async def test_a_package_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        for broken in (b"", b"PK nonsense", package({"readme.md": "no entry"}), package(input_schema="{")):
            with pytest.raises(InvalidArgument) as refused:
                await push(here, broken)
            assert refused.value.details
            assert all(isinstance(detail, str) for detail in refused.value.details)
        assert await here.flows.packages.page(owner=None, keyword="", limit=10, offset=0) == (0, [])
        assert (await here.store.queue.depth()).ready.get("builds", 0) == 0
        assert not list((tmp_path / "blobs").rglob("packages*"))


async def test_a_version_that_is_there_keeps_its_bytes(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        await push(here, package())
        replace = here.flows.packages.replace
        with pytest.raises(Unchanged, match="Script package is unchanged"):
            await replace(CALLER, "owner~demo", "v1.0.1", spooled(here, package()), Details())
        with pytest.raises(Conflict):
            await replace(CALLER, "owner~demo", "v1.0.1", spooled(here, package(main="a = 1\n")), Details())
        added = await replace(CALLER, "owner~demo", "1.4.0", spooled(here, package(main="a = 1\n")), Details())
        assert added.version == "v1.4.0"


async def test_a_version_whose_build_failed_can_be_uploaded_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await push(here, package())
        offer = await runner.take()
        await runner.end(offer, succeeded=False, message="pip: no network")
        worker = await here.flows.packages.find("owner~demo")
        failed = await here.flows.packages.version(worker, "v1.0.1")
        assert (failed.status, failed.build_error) == (VersionStatus.FAILED, "pip: no network")
        await here.flows.packages.replace(CALLER, "owner~demo", "v1.0.1", spooled(here, package()), Details())
        await runner.build()
        assert (await here.flows.packages.version(worker, "v1.0.1")).status is VersionStatus.READY


async def test_a_build_result_that_cannot_be_read_fails_the_version(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await push(here, package())
        await runner.end(await runner.take(), result=b"\xc1 not msgpack")
        worker = await here.flows.packages.find("owner~demo")
        version = await here.flows.packages.version(worker, "v1.0.1")
        assert version.status is VersionStatus.FAILED
        assert "cannot be read" in version.build_error


async def test_a_ready_build_keeps_its_lock_and_becomes_current(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await push(here, package())
        await runner.build()
        worker = await here.flows.packages.find("owner~demo")
        version = await here.flows.packages.version(worker, "v1.0.1")
        assert worker.current_version == "v1.0.1"
        assert version.environment is not None
        lock = b"".join([chunk async for chunk in here.store.blobs.read(version.environment.lock_key)])
        assert lock == b"requests==2.32.0\n"


async def test_waiting_for_a_build_wakes_with_its_end(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await push(here, package())
        worker = await here.flows.packages.find("owner~demo")
        waiting = asyncio.create_task(here.flows.packages.wait_built(worker, "v1.0.1", 30))
        await runner.build()
        async with asyncio.timeout(20):
            assert (await waiting).status is VersionStatus.READY


async def test_several_uploads_at_once_get_a_number_each(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        await push(here, package())
        contents = [package(main=f"a = {number}\n") for number in range(5)]
        versions = await asyncio.gather(*(push(here, content) for content in contents))
        assert sorted(number for number, _ in versions) == ["v1.0.2", "v1.0.3", "v1.0.4", "v1.0.5", "v1.0.6"]


async def test_workers_of_others_can_be_run_but_not_changed(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        await push(here, package())
        with pytest.raises(NotFound):
            await here.flows.packages.remove(STRANGER, "owner~demo")
        with pytest.raises(NotFound):
            await here.flows.packages.publish(STRANGER, "owner~demo", spooled(here, package()), Details())


async def test_a_removed_worker_is_gone_and_its_name_free(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        await push(here, package())
        await here.flows.packages.remove(CALLER, "owner~demo")
        with pytest.raises(NotFound):
            await here.flows.packages.find("owner~demo")
        assert await push(here, package()) == ("v1.0.1", True)


def test_names_come_from_titles_and_never_from_nothing() -> None:
    assert worker_name("Google Maps Scraper") == "google-maps-scraper"
    with pytest.raises(InvalidArgument):
        worker_name("爬虫")
