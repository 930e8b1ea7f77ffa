"""Starting runs: what is refused leaves nothing, what is accepted is split, interleaved and priced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plane import Plane, package, plane, spec_of

from clawplane.domain.access import Caller, Scope
from clawplane.domain.errors import (
    ClawplaneError,
    ConcurrencyLimited,
    InvalidArgument,
    NotAbortable,
    RunNotFound,
    TooLarge,
    VersionUnavailable,
    WorkerNotFound,
)
from clawplane.domain.runs import Run
from clawplane.flows.runs import RunLimits

CALLER = Caller(key_id="k", owner="owner", scopes=frozenset({Scope.WORKERS}))
STRANGER = Caller(key_id="s", owner="stranger", scopes=frozenset({Scope.WORKERS}))


def text(custom: Any, **system: Any) -> bytes:
    return json.dumps({"parameters": {"custom": custom, "system": system}}).encode()


async def start(here: Plane, custom: Any, *, version: str | None = None, **system: Any) -> Run:
    return await here.flows.runs.start(CALLER, "owner~demo-worker", text(custom, **system), version=version)


async def nothing_started(here: Plane) -> bool:
    count, _ = await here.flows.runs.page(
        CALLER, worker_id=None, status=None, created_from=None, created_before=None, limit=1, offset=0
    )
    depth = await here.store.queue.depth()
    return count == 0 and depth.ready.get("workers", 0) == 0


@pytest.mark.parametrize(
    ("worker", "version", "input_text", "error"),
    [
        ("owner~nobody", None, text({"keywords": ["a"]}), WorkerNotFound),
        ("owner/demo-worker", None, text({"keywords": ["a"]}), WorkerNotFound),
        ("owner~demo-worker", "latest", text({"keywords": ["a"]}), VersionUnavailable),
        ("owner~demo-worker", "v9.9.9", text({"keywords": ["a"]}), VersionUnavailable),
        ("owner~demo-worker", None, b'{"keywords":["a"]}', InvalidArgument),
        ("owner~demo-worker", None, b"null", InvalidArgument),
        ("owner~demo-worker", None, b"{", InvalidArgument),
        ("owner~demo-worker", None, b'{"parameters":{"custom":[]}}', InvalidArgument),
        ("owner~demo-worker", None, text({}), InvalidArgument),
        ("owner~demo-worker", None, text({"keywords": "a"}), InvalidArgument),
        ("owner~demo-worker", None, text({"keywords": [str(n) for n in range(1001)]}), InvalidArgument),
        ("owner~demo-worker", None, text({"keywords": ["a"]}, memory=513), InvalidArgument),
        (
            "owner~demo-worker",
            None,
            text({"keywords": ["a"], "deep": json.loads("[" * 99 + "]" * 99)}),
            InvalidArgument,
        ),
    ],
)
async def test_a_refused_start_leaves_nothing(
    tmp_path: Path, worker: str, version: str | None, input_text: bytes, error: type[ClawplaneError]
) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        with pytest.raises(error):
            await here.flows.runs.start(CALLER, worker, input_text, version=version)
        assert await nothing_started(here)


async def test_a_required_field_is_named_by_its_title(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        with pytest.raises(InvalidArgument, match="Keywords is required"):
            await start(here, {"keywords": []})


async def test_a_version_that_is_being_built_or_failed_cannot_be_run(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        async with here.client() as client:
            pushed = await client.post(
                "/v1/workers", data={"name": "demo-worker"}, files={"f": ("w.zip", package(main="import os\n"))}
            )
        assert pushed.json()["data"]["version"] == "v1.0.2"
        offer = await runner.take()
        with pytest.raises(VersionUnavailable, match="still being built"):
            await start(here, {"keywords": ["a"]}, version="v1.0.2")
        await runner.end(offer, succeeded=False, message="No matching distribution found for nonsense")
        with pytest.raises(VersionUnavailable, match="failed"):
            await start(here, {"keywords": ["a"]}, version="v1.0.2")
        assert (await start(here, {"keywords": ["a"]})).version == "v1.0.1"


async def test_each_subtask_gets_its_own_input_with_defaults_and_exact_numbers(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        run = await start(here, {"keywords": ["a & b", "ö"], "id": 2**70, "unknown": {"x": 1.5}})
        assert run.subtask_count == 2
        inputs = [json.loads(spec_of(await runner.next_offer()).input) for _ in range(2)]
        assert inputs == [
            {"keywords": ["a & b"], "id": 2**70, "unknown": {"x": 1.5}, "depth": 3},
            {"keywords": ["ö"], "id": 2**70, "unknown": {"x": 1.5}, "depth": 3},
        ]


async def test_text_that_utf8_cannot_hold_survives_as_an_escape(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        await here.flows.runs.start(CALLER, "owner~demo-worker", b'{"parameters":{"custom":{"keywords":["\\ud800"]}}}')
        assert b"\\ud800" in spec_of(await runner.next_offer()).input


async def test_the_time_limit_of_an_attempt_covers_the_runs_own_and_the_grace(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        await start(here, {"keywords": ["a"]}, execute_limit_time_seconds=7, memory=1024)
        offer = await runner.next_offer()
        assert offer.timeout_ms == 7000 + 10_000 + 60_000
        assert (spec_of(offer).system.cpus, spec_of(offer).system.memory) == (0.25, 1024)


async def test_a_large_field_copied_into_many_subtasks_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    async with plane(tmp_path, run_limits=RunLimits(max_input_bytes=1_000_000)) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        with pytest.raises(TooLarge):
            await start(here, {"keywords": [str(n) for n in range(1000)], "large": "x" * 10_000})
        assert await nothing_started(here)


async def test_a_start_beyond_the_plans_limit_is_refused_until_a_run_has_ended(tmp_path: Path) -> None:
    async with plane(tmp_path, run_limits=RunLimits(max_running=1)) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        first = await start(here, {"keywords": ["a"]})
        offer = await runner.take()
        with pytest.raises(ConcurrencyLimited):
            await start(here, {"keywords": ["b"]})
        await runner.end(offer)
        assert first.slug != (await start(here, {"keywords": ["b"]})).slug


async def test_a_rerun_repeats_worker_version_and_input_under_a_new_slug(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        first = await start(here, {"keywords": ["a", "b"]}, memory=1024)
        again = await here.flows.runs.rerun(CALLER, first.slug)
        assert again.slug != first.slug
        assert (again.version, again.input, again.system, again.subtask_count, again.rerun_of) == (
            first.version,
            first.input,
            first.system,
            2,
            first.slug,
        )


async def test_a_run_cannot_be_aborted_twice(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        run = await start(here, {"keywords": ["a"]})
        await here.flows.runs.abort(CALLER, run.slug)
        with pytest.raises(NotAbortable):
            await here.flows.runs.abort(CALLER, run.slug)


async def test_runs_of_others_are_not_there(tmp_path: Path) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        run = await start(here, {"keywords": ["a"]})
        for asked in (here.flows.runs.find, here.flows.runs.abort, here.flows.runs.rerun, here.flows.runs.subtasks):
            with pytest.raises(RunNotFound):
                await asked(STRANGER, run.slug)
        with pytest.raises(RunNotFound):
            await here.flows.runs.last(STRANGER)
        admin = Caller(key_id="a", owner="boss", scopes=frozenset({Scope.ADMIN}))
        assert (await here.flows.runs.find(admin, run.slug)).slug == run.slug


async def test_usage_is_cpu_time_at_its_price_and_failed_runs_are_free(tmp_path: Path) -> None:
    async with plane(tmp_path, run_limits=RunLimits(usd_per_cpu_second=0.001)) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        paid = await start(here, {"keywords": ["a"]})
        await runner.run(cpu_ms=21_700)
        free = await start(here, {"keywords": ["a"]})
        await runner.run(cpu_ms=21_700, succeeded=False)
        usage = here.flows.runs.usage
        assert usage(await here.flows.runs.wait(paid.slug, 5)) == "0.0217"
        assert usage(await here.flows.runs.wait(free.slug, 5)) == "0.00"
        assert usage(paid) == "0.00"
        assert [usage(msgspec.structs.replace(paid, cpu_ms=ms)) for ms in (1, 500, 12_340, 3_000_000)] == [
            "0.000001",
            "0.0005",
            "0.01234",
            "3.00",
        ]


@pytest.mark.parametrize("url", ["ftp://x.test/", "nonsense", "http://", "https://x.test/\n", "http://" + "x" * 3000])
async def test_a_callback_url_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    async with plane(tmp_path) as here:
        runner = here.runner()
        await runner.connect()
        await here.worker(runner)
        with pytest.raises(InvalidArgument, match="callback_url"):
            await here.flows.runs.start(CALLER, "owner~demo-worker", text({"keywords": ["a"]}), callback_url=url)
