"""A subtask in the real sandbox, run by a whole runner against the control plane in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clawplane.domain.leases import JobKind
from clawplane.domain.runs import RunSystem, SubtaskSpec
from clawplane.domain.workers import Environment
from clawplane.runner.daemon import run_runner
from clawplane.runner.runner import Runner


@pytest.fixture
async def real_runner(settings, plane) -> AsyncIterator[Runner]:
    found: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run_runner(settings, serving=found.set_result))
    await asyncio.wait([task, found], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    runner = found.result()
    await plane.changes.until(lambda: plane.free_slots, "the runner offers its slots")
    yield runner
    runner.drain()
    runner.drain()
    await task


def spec_of(plane, content: bytes, *, language: str, input_: bytes = b"{}", **system) -> SubtaskSpec:
    key, digest = plane.put_blob(content)
    return SubtaskSpec(
        run="RUN",
        index=0,
        worker="WORKER",
        version="v1.0.0",
        language=language,
        package_key=key,
        package_sha256=digest,
        environment=Environment(fingerprint="", lock_key=""),
        input=input_,
        system=RunSystem(**system),
    )


async def test_what_a_node_worker_prints_is_in_its_log(real_runner, plane, make_package) -> None:
    spec = spec_of(plane, make_package(main__js="console.log('hello'); console.error('oh')"), language="node")
    offer = plane.offer(JobKind.SUBTASK, spec)
    finish = await plane.ended(offer)
    print(finish, plane.batches)
    assert finish.outcome.succeeded
    assert plane.lines(offer.job, "stdout") == ["hello"]
    assert plane.lines(offer.job, "stderr") == ["oh"]
