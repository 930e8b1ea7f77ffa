"""Builds in the real sandbox, run by a whole runner against the control plane in memory."""

from __future__ import annotations

import asyncio
import json
import shutil

import msgspec
import pytest

from clawplane.builder.build_log import BuildLog
from clawplane.domain.clock import ManualClock
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import JobKind, Offer
from clawplane.domain.runs import RunSystem, SubtaskSpec
from clawplane.domain.workers import BuildResult, BuildSpec, Environment
from clawplane.runner.jobs.build import BuildJob
from clawplane.runner.redact import Redactor
from clawplane.runner.room import Room
from clawplane.runner.shipping import Shipper


def spec_of(plane, content: bytes, language: str) -> BuildSpec:
    key, digest = plane.put_blob(content)
    return BuildSpec(worker="W", version="v1.0.0", language=language, package_key=key, package_sha256=digest)


def subtask_of(plane, content: bytes) -> SubtaskSpec:
    key, digest = plane.put_blob(content)
    return SubtaskSpec(
        run="RUN",
        index=0,
        worker="W",
        version="v1.0.0",
        language="python",
        package_key=key,
        package_sha256=digest,
        environment=Environment(fingerprint="", lock_key=""),
        input=b"{}",
        system=RunSystem(cpus=1.0),
    )


async def built(plane, content: bytes, language: str):
    offer = plane.offer(JobKind.BUILD, spec_of(plane, content, language))
    return (await plane.ended(offer)).outcome, offer.job


@pytest.mark.skipif(shutil.which("npm") is None, reason="this host has no npm")
async def test_a_build_without_dependencies_reports_its_environment(real_runner, plane, make_package) -> None:
    manifest = json.dumps({"name": "w", "main": "main.js"})
    outcome, job = await built(plane, make_package(main__js="", package__json=manifest), "node")
    assert outcome.succeeded, outcome
    result = msgspec.msgpack.decode(outcome.result, type=BuildResult)
    assert len(result.fingerprint) == 64
    assert plane.lines(job, "system")[0] == "SYSTEM: Building the environment of version v1.0.0."
    assert plane.lines(job, "system")[-1].startswith("SYSTEM: The environment is ready")


@pytest.mark.parametrize(
    ("language", "files", "words"),
    [
        ("python", {"requirements__txt": "requests @ git+https://example.org/x"}, "requirements.txt:1"),
        ("node", {"package__json": "{"}, "package.json:1"),
        ("go", {"main": "#!/bin/sh"}, "main: is not a Linux program"),
    ],
)
async def test_a_dependency_file_that_cannot_be_accepted_is_named(
    real_runner, plane, make_package, language, files, words
) -> None:
    outcome, job = await built(plane, make_package(**files), language)
    assert (outcome.succeeded, outcome.reason) == (False, "exit")
    assert words in outcome.message
    assert any(words in line for line in plane.lines(job))


async def test_a_package_that_cannot_be_fetched_is_told_as_setup(real_runner, plane, make_package) -> None:
    spec = spec_of(plane, make_package(main__py=""), "python")
    plane.blobs.clear()
    outcome = (await plane.ended(plane.offer(JobKind.BUILD, spec))).outcome
    assert (outcome.reason, "There is no such blob" in outcome.message) == ("setup", True)


async def test_an_archive_that_is_none_fails_the_build_in_words(real_runner, plane) -> None:
    outcome, _ = await built(plane, b"no zip at all", "python")
    assert not outcome.succeeded
    assert "ZIP" in outcome.message


async def test_a_cancel_ends_a_build_that_waits_for_its_package(real_runner, plane, make_package) -> None:
    gate = asyncio.Event()
    plane.before_download = gate.wait
    offer = plane.offer(JobKind.BUILD, spec_of(plane, make_package(main__py=""), "python"))
    await plane.changes.until(lambda: plane.downloads, "the download has begun")
    plane.connection.cancel(offer.job, offer.fence, "asked")
    assert (await plane.ended(offer)).outcome.reason == "aborted"
    gate.set()


@pytest.mark.network
async def test_a_python_worker_is_built_and_soon_starts_with_the_sdk_warm(real_runner, plane, make_package) -> None:
    code = "import sys; print('grpc' in sys.modules); import six, grpc; print(six.__version__, __file__)"
    content = make_package(main__py=code, requirements__txt="six==1.17.0")
    outcome, job = await built(plane, content, "python")
    assert outcome.succeeded, plane.lines(job)
    result = msgspec.msgpack.decode(outcome.result, type=BuildResult)
    assert "six==1.17.0" in result.lock
    assert result.grpcio
    assert result.protobuf
    warm = "False"
    async with asyncio.timeout(60):
        while warm == "False":
            offer = plane.offer(JobKind.SUBTASK, subtask_of(plane, content))
            assert (await plane.ended(offer)).outcome.succeeded, plane.lines(offer.job)
            warm, versions = plane.lines(offer.job, "stdout")
            assert versions == "1.17.0 /worker/main.py"


@pytest.mark.network
async def test_a_failed_installation_gives_the_installers_own_words(real_runner, plane, make_package) -> None:
    wanted = "this-package-does-not-exist-anywhere-4711==1.0"
    outcome, job = await built(plane, make_package(main__py="", requirements__txt=wanted), "python")
    assert not outcome.succeeded
    assert "this-package-does-not-exist-anywhere-4711" in outcome.message
    assert any("this-package-does-not-exist-anywhere-4711" in line for line in plane.lines(job))


async def test_set_up_code_that_prints_progress_for_ever_fills_no_more_than_the_log(plane) -> None:
    spec = msgspec.msgpack.encode(spec_of(plane, b"", "python"))
    offer = Offer(
        job=JobId(1),
        kind=JobKind.BUILD,
        subject="W@v1.0.0",
        runner=RunnerId("R"),
        attempt=1,
        fence=1,
        nonce=1,
        spec=spec,
        timeout_ms=60_000,
    )
    room = Room(1 << 30)
    shipper = Shipper(lambda *_: 1, room=room, clock=ManualClock(), redactor=Redactor([]), log_bytes=10_000)
    job = BuildJob(offer, shipper, None)
    log = BuildLog(job._log, job._progress)
    await log.feed(b"Resolved 1 package\nPrepared 1 package\n" * 5_000)
    assert room.used < 20_000
