from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from clawplane.builder.environments import Environment, EnvironmentCache
from clawplane.builder.errors import BuildFailed
from clawplane.builder.launcher import Outcome
from clawplane.builder.plan import plan_go, plan_python
from clawplane.builder.tools import Tools


def ignore(line: str) -> None:
    pass


async def build(cache: EnvironmentCache, launcher: Any, requirements: str) -> Environment:
    return await cache.ensure(plan_python(requirements.encode()), launcher=launcher, on_log=ignore)


def under_way(root: Path) -> list[str]:
    return os.listdir(root / "work" / "building")


async def test_a_worker_without_requirements_gets_what_the_sdk_needs(cache, launcher) -> None:
    environment = await cache.ensure(plan_python(None), launcher=launcher, on_log=ignore)
    assert environment.warm == {"grpcio": "1.85.1", "protobuf": "7.36.2", "typing-extensions": "4.16.0"}
    assert [line.split(" ")[0] for line in environment.lock.splitlines()[1:]] == [
        "grpcio==1.85.1",
        "protobuf==7.36.2",
        "typing-extensions==4.16.0",
    ]


async def test_the_interpreter_of_an_environment_imports_what_was_installed(cache, launcher, index) -> None:
    index.add_wheel("alpha", "1.2")
    environment = await build(cache, launcher, "alpha==1.2")
    asked = subprocess.run(
        [environment.interpreter, "-c", "import alpha, sys; print(alpha.version, sys.prefix, alpha.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    site = environment.site_directories[0]
    assert asked.stdout.split() == ["1.2", str(environment.path), str(site / "alpha.py")]


async def test_the_second_worker_with_the_same_requirements_runs_no_installer(cache, launcher, index) -> None:
    index.add_wheel("alpha", "1.2")
    first = await build(cache, launcher, "alpha==1.2  # pinned")
    launcher.steps.clear()
    second = await build(cache, launcher, "ALPHA == 1.2\n")
    assert (first.reused, second.reused, launcher.steps) == (False, True, [])
    assert second.fingerprint == first.fingerprint


async def test_a_known_environment_is_built_again_without_any_network(root, local_tools, launcher, index) -> None:
    index.add_wheel("alpha", "1.2")
    cache = EnvironmentCache(root, local_tools)
    first = await build(cache, launcher, "alpha")
    long_ago = time.time() - 10_000
    os.utime(first.path.parent / "used", (long_ago, long_ago))
    assert (await cache.collect(max_age=5_000, max_bytes=1 << 40, in_use=set())).removed == (first.fingerprint,)
    index.add_wheel("alpha", "1.3")
    index.requests.clear()
    launcher.online = False
    again = await build(EnvironmentCache(root, local_tools), launcher, "alpha")
    assert again.lock == first.lock
    assert index.requests == []


async def test_new_requirements_resolve_from_the_cache_when_the_index_is_away(cache, launcher, index, lines) -> None:
    index.add_wheel("alpha", "1.2")
    index.add_wheel("beta", "2.0")
    await build(cache, launcher, "alpha\nbeta")
    launcher.online = False
    launcher.steps.clear()
    environment = await cache.ensure(plan_python(b"beta"), launcher=launcher, on_log=lines.append)
    assert "beta==2.0" in environment.lock
    assert any("cannot be reached" in line for line in lines)


async def test_many_requests_for_one_plan_build_it_once(cache, launcher) -> None:
    made = await asyncio.gather(*(build(cache, launcher, "") for _ in range(5)))
    assert [environment.reused for environment in made].count(False) == 1
    assert len([step for step in launcher.steps if "install" in step.argv]) == 1


async def test_two_caches_on_one_directory_build_a_plan_once(root, local_tools, launcher) -> None:
    caches = [EnvironmentCache(root, local_tools), EnvironmentCache(root, local_tools)]
    made = await asyncio.gather(*(build(cache, launcher, "") for cache in caches))
    assert sorted(environment.reused for environment in made) == [False, True]


async def test_a_build_cut_off_in_the_middle_leaves_nothing(cache, launcher, root) -> None:
    task = asyncio.ensure_future(build(cache, launcher, ""))
    await asyncio.wait_for(launcher.started.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(root / "environments") == []
    assert under_way(root) == []
    assert not (await build(cache, launcher, "")).reused


async def test_what_a_killed_builder_left_is_removed_at_the_next_start(root, local_tools) -> None:
    EnvironmentCache(root, local_tools)
    left = root / "work" / "building" / f"{'a' * 64}.{'b' * 32}"
    (left / "tree").mkdir(parents=True)
    (left / "tree" / "half").write_text("half")
    EnvironmentCache(root, local_tools)
    assert under_way(root) == []


async def test_opening_a_cache_spares_the_builds_of_a_living_neighbour(root, local_tools, launcher) -> None:
    task = asyncio.ensure_future(build(EnvironmentCache(root, local_tools), launcher, ""))
    await asyncio.wait_for(launcher.started.wait(), 10)
    EnvironmentCache(root, local_tools)
    assert len(under_way(root)) == 1
    assert not (await task).reused


async def test_an_environment_without_its_record_is_built_again(cache, launcher) -> None:
    first = await build(cache, launcher, "")
    record = first.path.parent / "environment.json"
    record.write_bytes(b"")
    second = await build(cache, launcher, "")
    assert (second.reused, second.path.exists()) == (False, True)


async def test_an_environment_that_lost_a_file_to_a_power_cut_is_built_again(cache, launcher) -> None:
    first = await build(cache, launcher, "")
    record = first.path.parent / "environment.json"
    this_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record.write_text(record.read_text().replace(this_boot, "an-earlier-boot"))
    assert (await build(cache, launcher, "")).reused
    record.write_text(record.read_text().replace(this_boot, "an-earlier-boot"))
    module = first.site_directories[0] / "grpcio.py"
    module.chmod(0o600)
    module.write_text("")
    assert not (await build(cache, launcher, "")).reused


async def test_environments_unused_for_too_long_are_removed(cache, launcher, index) -> None:
    index.add_wheel("alpha", "1.2")
    old, kept = await build(cache, launcher, "alpha"), await build(cache, launcher, "")
    long_ago = time.time() - 3_600
    os.utime(old.path.parent / "used", (long_ago, long_ago))
    collected = await cache.collect(max_age=1_800, max_bytes=1 << 40, in_use=set())
    assert collected.removed == (old.fingerprint,)
    assert (old.path.exists(), kept.path.exists()) == (False, True)


async def test_the_longest_unused_environments_go_first_when_space_runs_out(cache, launcher, index) -> None:
    built = []
    for number in range(3):
        index.add_wheel(f"pack{number}", "1", {f"pack{number}.py": "#" * 100_000})
        environment = await build(cache, launcher, f"pack{number}")
        used = time.time() - 4_000 + number
        os.utime(environment.path.parent / "used", (used, used))
        built.append(environment.fingerprint)
    collected = await cache.collect(max_age=1e9, max_bytes=150_000, in_use={built[0]})
    assert collected.removed == (built[1], built[2])
    assert collected.kept_bytes < 150_000


async def test_a_just_used_environment_survives_any_collection(cache, launcher) -> None:
    environment = await build(cache, launcher, "")
    assert (await cache.collect(max_age=0, max_bytes=0, in_use=set())).removed == ()
    assert environment.path.exists()


async def test_installer_caches_that_grew_too_large_are_emptied(cache, launcher, root) -> None:
    environment = await build(cache, launcher, "")
    collected = await cache.collect(max_age=1e9, max_bytes=10, in_use=set())
    assert collected.cache_bytes == 0
    assert not (root / "work" / "uv").exists()
    assert (environment.site_directories[0] / "grpcio.py").read_text()


async def test_a_plan_that_cannot_be_solved_fails_with_the_installers_words(cache, launcher, lines) -> None:
    with pytest.raises(BuildFailed) as caught:
        await cache.ensure(plan_python(b"grpcio==99"), launcher=launcher, on_log=lines.append)
    assert "grpcio==99" in caught.value.message
    assert "unsatisfiable" in caught.value.message
    assert "unsatisfiable" in caught.value.log_tail
    assert any("unsatisfiable" in line for line in lines)


async def test_a_conflict_with_what_we_add_says_how_to_override_it(cache, launcher, index) -> None:
    index.add_wheel("old", "1", requires=["protobuf<6"])
    with pytest.raises(BuildFailed, match="clawplane adds protobuf") as caught:
        await build(cache, launcher, "old")
    assert "pin it in requirements.txt" in caught.value.message


async def test_a_pin_of_the_workers_own_wins(cache, launcher, index) -> None:
    index.add_wheel("protobuf", "5.29.0")
    assert (await build(cache, launcher, "protobuf==5.29.0")).warm["protobuf"] == "5.29.0"


async def test_an_installer_that_is_killed_is_reported_with_its_reason(cache) -> None:
    class Killer:
        async def run(self, argv: object, **parts: Any) -> Any:
            await parts["on_output"](b"half a line")
            return Outcome(None, "killed after 900 s")

    with pytest.raises(BuildFailed, match="ended while resolving: killed after 900 s") as caught:
        await build(cache, Killer(), "")
    assert caught.value.log_tail == "half a line"


async def test_phases_are_told_in_order(cache, launcher) -> None:
    phases: list[str] = []
    await cache.ensure(plan_python(None), launcher=launcher, on_log=ignore, on_progress=phases.append)
    assert phases == ["resolving", "downloading", "installing"]


async def test_compiling_adds_byte_code_that_names_the_mount_point(cache, launcher) -> None:
    environment = await build(cache, launcher, "")
    assert not environment.compiled
    compiled = await cache.compile(environment, launcher=launcher)
    (code,) = (compiled.site_directories[0] / "__pycache__").glob("grpcio.*.pyc")
    assert compiled.compiled
    assert b"/env/lib/python" in code.read_bytes()
    launcher.steps.clear()
    assert (await cache.compile(await build(cache, launcher, ""), launcher=launcher)).compiled
    assert launcher.steps == []


async def test_a_compiled_worker_needs_no_environment(cache, launcher) -> None:
    environment = await cache.ensure(plan_go(), launcher=launcher, on_log=ignore)
    assert (environment.language, environment.site_directories, os.listdir(environment.path)) == ("go", (), [])
    assert launcher.steps == []


async def test_nothing_of_the_runners_environment_reaches_an_installer(cache, launcher, monkeypatch) -> None:
    monkeypatch.setenv("CLAWPLANE_API_KEY", "secret-of-the-runner")
    await build(cache, launcher, "")
    assert "secret-of-the-runner" not in repr(launcher.steps)


@pytest.mark.network
async def test_a_real_package_comes_from_the_configured_index(root, tools: Tools, launcher) -> None:
    environment = await build(EnvironmentCache(root, tools), launcher, "six==1.16.0\n")
    assert "six==1.16.0" in environment.lock
    asked = subprocess.run(
        [environment.interpreter, "-c", "import six, grpc, google.protobuf; print(six.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "1.16.0\n"
