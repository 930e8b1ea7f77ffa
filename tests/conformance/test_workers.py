"""What ports.Workers promises."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clawplane.domain.diagnostics import Diagnostic
from clawplane.domain.errors import Conflict, WorkerNotFound
from clawplane.domain.leases import Claim, Finish, Outcome
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.workers import Environment, Worker, WorkerVersion

ENVIRONMENT = Environment(fingerprint="f1", lock_key="locks/f1", grpcio="1.85.1", protobuf="6.31")


async def created(bench: Any, name: str = "shop", **changes: Any) -> Worker:
    worker: Worker = bench.worker(name, **changes)
    await bench.store.workers.create(worker)
    return worker


async def uploaded(bench: Any, worker: Worker, number: str = "v1.0.0", **changes: Any) -> WorkerVersion:
    version, job = bench.version(worker, number, **changes)
    await bench.store.workers.add_version(version, job)
    stored: WorkerVersion = version
    return stored


async def built(bench: Any, offer: Any, *, ready: bool = True, **outcome: Any) -> Any:
    values: dict[str, Any] = {"succeeded": ready, "reason": "exit"}
    finish = Finish(
        claim=Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce), outcome=Outcome(**(values | outcome))
    )
    return await bench.store.workers.finish_build(
        finish,
        status=VersionStatus.READY if ready else VersionStatus.FAILED,
        environment=ENVIRONMENT if ready else None,
        error="" if ready else "no such package",
        now=bench.now,
    )


async def test_a_worker_is_found_by_slug_and_by_path_exactly(bench: Any) -> None:
    worker = await created(bench, "Shop", description="d", categories=(3, 1), icon="i")
    assert await bench.store.workers.find(worker.slug) == worker
    assert await bench.store.workers.find("ann~Shop") == worker
    assert await bench.store.workers.find("ann~shop") is None
    assert await bench.store.workers.find(worker.slug.upper()) is None
    assert await bench.store.workers.find("Shop") is None


async def test_a_second_worker_of_the_same_owner_and_name_is_a_conflict(bench: Any) -> None:
    worker = await created(bench)
    with pytest.raises(Conflict, match="ann~shop"):
        await created(bench, slug="another")
    assert await bench.store.workers.find("ann~shop") == worker
    await created(bench, owner="bob")


async def test_a_page_has_the_count_of_all_and_the_newest_workers_first(bench: Any) -> None:
    for index in range(5):
        await created(bench, f"w{index}", created_at=bench.now + index)
    count, page = await bench.store.workers.page(owner=None, keyword="", limit=2, offset=1)
    assert (count, [worker.name for worker in page]) == (5, ["w3", "w2"])


async def test_the_keyword_matches_title_slug_and_path_literally_in_either_case(bench: Any) -> None:
    await created(bench, "one", title="Price 100% Watch")
    await created(bench, "two", title="x", slug="abc_def")
    await created(bench, "three", owner="bob", title="x")

    async def names(keyword: str, owner: str | None = None) -> list[str]:
        count, page = await bench.store.workers.page(owner=owner, keyword=keyword, limit=9, offset=0)
        assert count == len(page)
        return [worker.name for worker in page]

    assert await names("price") == ["one"]
    assert await names("100%") == ["one"]
    assert await names("C_D") == ["two"]
    assert await names("bob~TH") == ["three"]
    assert await names("_") == ["two"]
    assert await names("", owner="ann") == ["two", "one"]


async def test_an_update_replaces_what_may_change_and_nothing_else(bench: Any) -> None:
    worker = await created(bench)
    changed = msgspec.structs.replace(
        worker, title="t", description="d", categories=(1,), icon="i", owner="eve", name="n", updated_at=bench.now + 1
    )
    await bench.store.workers.update(changed)
    assert await bench.store.workers.find(worker.slug) == msgspec.structs.replace(changed, owner="ann", name="shop")
    with pytest.raises(WorkerNotFound):
        await bench.store.workers.update(bench.worker("unknown"))


async def test_a_removed_worker_is_in_no_listing_and_its_name_is_free(bench: Any) -> None:
    worker = await created(bench)
    await uploaded(bench, worker)
    await bench.store.workers.remove(worker.slug, now=bench.now)
    assert await bench.store.workers.find(worker.slug) is None
    assert await bench.store.workers.find("ann~shop") is None
    assert await bench.store.workers.page(owner=None, keyword="", limit=9, offset=0) == (0, [])
    await created(bench, slug="another")


async def test_a_version_is_stored_with_its_build_job(bench: Any) -> None:
    worker = await created(bench)
    version = await uploaded(
        bench, worker, diagnostics=(Diagnostic("code", "warn", "message", "main.py", 3, "hint"),), readme="# R"
    )
    assert await bench.store.workers.version(worker.slug, "v1.0.0") == version
    assert await bench.store.workers.version(worker.slug, "v9") is None
    (offer,) = await bench.offer(caps="builds")
    assert (offer.job, offer.subject) == (version.build_job, f"{worker.slug}@v1.0.0")


async def test_versions_are_told_newest_first(bench: Any) -> None:
    worker = await created(bench)
    for number in ("v1.0.0", "v1.0.10", "v1.0.9"):
        await uploaded(bench, worker, number)
    assert [version.version for version in await bench.store.workers.versions(worker.slug)] == [
        "v1.0.9",
        "v1.0.10",
        "v1.0.0",
    ]


async def test_a_version_that_is_building_or_ready_is_a_conflict_and_queues_nothing(bench: Any) -> None:
    worker = await created(bench)
    await uploaded(bench, worker)
    with pytest.raises(Conflict):
        await uploaded(bench, worker)
    (offer,) = await bench.lease(9, caps="builds")
    await built(bench, offer)
    with pytest.raises(Conflict):
        await uploaded(bench, worker)
    assert await bench.offer(9, caps="builds") == []


async def test_a_version_that_failed_is_replaced(bench: Any) -> None:
    worker = await created(bench)
    await uploaded(bench, worker)
    (offer,) = await bench.lease(caps="builds")
    await built(bench, offer, ready=False)
    second = await uploaded(bench, worker, package_sha256="cd")
    assert await bench.store.workers.versions(worker.slug) == [second]
    assert [offer.job for offer in await bench.offer(9, caps="builds")] == [second.build_job]


async def test_a_version_that_is_ready_at_once_becomes_the_current_one(bench: Any) -> None:
    worker = await created(bench)
    version, _ = bench.version(worker, status=VersionStatus.READY, environment=ENVIRONMENT, ready_at=bench.now)
    await bench.store.workers.add_version(version, None)
    assert (await bench.store.workers.find(worker.slug)).current_version == "v1.0.0"
    assert await bench.offer(9, caps="builds") == []


async def test_a_finished_build_settles_its_version_and_makes_it_current(bench: Any) -> None:
    worker = await created(bench)
    version = await uploaded(bench, worker)
    (offer,) = await bench.lease(caps="builds")
    bench.clock.advance(1)
    answer = await built(bench, offer)
    assert (answer.accepted, answer.run) == (True, None)
    assert await bench.store.workers.version(worker.slug, "v1.0.0") == msgspec.structs.replace(
        version, status=VersionStatus.READY, environment=ENVIRONMENT, ready_at=bench.now
    )
    assert (await bench.store.workers.find(worker.slug)).current_version == "v1.0.0"


async def test_a_failed_build_keeps_its_error_and_leaves_the_current_version(bench: Any) -> None:
    worker = await created(bench)
    await uploaded(bench, worker)
    (offer,) = await bench.lease(caps="builds")
    await built(bench, offer)
    await uploaded(bench, worker, "v1.0.1")
    (offer,) = await bench.lease(caps="builds")
    await built(bench, offer, ready=False)
    version = await bench.store.workers.version(worker.slug, "v1.0.1")
    assert (version.status, version.build_error, version.ready_at) == (VersionStatus.FAILED, "no such package", None)
    assert (await bench.store.workers.find(worker.slug)).current_version == "v1.0.0"


async def test_an_older_version_whose_build_ends_later_does_not_become_current(bench: Any) -> None:
    worker = await created(bench)
    await uploaded(bench, worker, "v1.0.0")
    await uploaded(bench, worker, "v1.0.1")
    older, newer = await bench.lease(2, caps="builds")
    await built(bench, newer)
    await built(bench, older)
    assert (await bench.store.workers.find(worker.slug)).current_version == "v1.0.1"


async def test_a_stale_end_of_a_build_settles_nothing(bench: Any) -> None:
    worker = await created(bench)
    await uploaded(bench, worker)
    (stale,) = await bench.lease(caps="builds")
    bench.clock.advance(13)
    await bench.expire()
    assert not (await built(bench, stale)).accepted
    assert (await bench.store.workers.version(worker.slug, "v1.0.0")).status is VersionStatus.BUILDING
    (again,) = await bench.lease(1, "r2", caps="builds")
    assert (await built(bench, again)).accepted
    answer = await built(bench, again)
    assert (answer.accepted, answer.repeated) == (False, True)


async def test_a_build_that_could_not_be_started_is_tried_again_and_its_version_stays_building(bench: Any) -> None:
    worker = await created(bench)
    await uploaded(bench, worker)
    (offer,) = await bench.lease(caps="builds")
    assert (await built(bench, offer, ready=False, reason="setup")).accepted
    assert (await bench.store.workers.version(worker.slug, "v1.0.0")).status is VersionStatus.BUILDING
    assert [offer.attempt for offer in await bench.offer(caps="builds")] == [2]


async def test_a_build_whose_runners_are_all_lost_fails_its_version(bench: Any) -> None:
    worker = await created(bench)
    await uploaded(bench, worker)
    for _ in range(3):
        await bench.lease(caps="builds")
        bench.clock.advance(13)
        await bench.expire()
    version = await bench.store.workers.version(worker.slug, "v1.0.0")
    assert version.status is VersionStatus.FAILED
    assert version.build_error == "The runner was lost while it ran (3 times)."


async def test_a_cancelled_build_fails_its_version_with_the_reason(bench: Any) -> None:
    worker = await created(bench)
    version = await uploaded(bench, worker)
    await bench.store.queue.cancel([version.build_job], "The Worker was removed.")
    stored = await bench.store.workers.version(worker.slug, "v1.0.0")
    assert (stored.status, stored.build_error) == (VersionStatus.FAILED, "The Worker was removed.")
