"""A lock found by one runner's build makes the same environment on another runner, or none."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from clawplane.builder.environments import Environment, EnvironmentCache
from clawplane.builder.errors import BuildFailed
from clawplane.builder.plan import plan_node, plan_python
from clawplane.builder.python_lock import read_python_lock
from clawplane.builder.tools import Tools


def ignore(line: str) -> None:
    pass


async def build(cache: EnvironmentCache, launcher: Any, requirements: str, **how: Any) -> Environment:
    return await cache.ensure(plan_python(requirements.encode()), launcher=launcher, **{"on_log": ignore, **how})


@pytest.fixture
def elsewhere(tmp_path: Path, local_tools: Tools) -> EnvironmentCache:
    """The cache of another runner on a host like this one."""
    return EnvironmentCache(tmp_path / "elsewhere", local_tools)


async def test_a_lock_names_its_hosts_and_the_hashes_of_every_file_of_a_version(
    cache, launcher, index, local_tools: Tools
) -> None:
    index.add_wheel("alpha", "1.0")
    index.add_source("alpha", "1.0", "    pass")
    lock = read_python_lock((await build(cache, launcher, "alpha")).lock)
    (alpha,) = [pin for pin in lock.pins if pin.name == "alpha"]
    assert (alpha.versions, set(alpha.hashes)) == (("==1.0",), index.hashes("alpha"))
    assert lock.made_for == f"cpython-{local_tools.python.short_version} on {local_tools.platform}"
    assert lock.unchecked == []


async def test_another_runner_installs_the_locked_versions_when_newer_ones_are_out(
    cache, elsewhere, launcher, index
) -> None:
    index.add_wheel("alpha", "1.0", requires=["beta"])
    index.add_wheel("beta", "1.0")
    first = await build(cache, launcher, "alpha")
    index.add_wheel("alpha", "2.0", requires=["gamma"])
    index.add_wheel("beta", "2.0")
    second = await build(elsewhere, launcher, "alpha", lock=first.lock)
    assert (second.reused, second.fingerprint, second.lock) == (False, first.fingerprint, first.lock)
    assert (second.site_directories[0] / "beta.py").read_text() == "version = '1.0'\n"
    assert second.warm == first.warm


async def test_an_environment_that_is_here_is_used_whatever_the_lock_says(cache, launcher, index) -> None:
    index.add_wheel("alpha", "1.0")
    first = await build(cache, launcher, "alpha")
    launcher.steps.clear()
    again = await build(cache, launcher, "alpha", lock=first.lock.replace("alpha==1.0", "alpha==2.0"))
    assert (again.reused, again.lock, launcher.steps) == (True, first.lock, [])


async def test_a_file_whose_bytes_are_not_the_locked_ones_is_not_installed(
    cache, elsewhere, launcher, index, tmp_path: Path
) -> None:
    index.add_wheel("alpha", "1.0")
    lock = (await build(cache, launcher, "alpha")).lock
    index.add_wheel("alpha", "1.0", {"alpha.py": "evil = True\n"})
    with pytest.raises(BuildFailed, match="What the lock names cannot be installed") as caught:
        await build(elsewhere, launcher, "alpha", lock=lock)
    assert "alpha==1.0" in caught.value.message
    assert os.listdir(tmp_path / "elsewhere" / "environments") == []


async def test_what_the_index_lost_is_not_replaced_by_something_newer(cache, elsewhere, launcher, index) -> None:
    index.add_wheel("alpha", "1.0")
    lock = (await build(cache, launcher, "alpha")).lock
    shutil.rmtree(index.root / "simple" / "alpha")
    index.add_wheel("alpha", "2.0")
    with pytest.raises(BuildFailed, match=r"alpha==1\.0"):
        await build(elsewhere, launcher, "alpha", lock=lock)


async def test_a_locked_source_is_built_again_where_its_build_is_all_that_can_be_written(
    cache, elsewhere, launcher, index, tmp_path: Path
) -> None:
    index.add_source("sourced", "1.0", "    pass")
    first = await build(cache, launcher, "sourced")
    index.add_source("sourced", "2.0", "    pass")
    launcher.steps.clear()
    second = await build(elsewhere, launcher, "sourced", lock=first.lock)
    assert second.lock == first.lock
    wheels, sources = launcher.steps
    assert (":all:" in wheels.argv, ":all:" in sources.argv) == (True, False)
    (writable,) = sources.writable
    assert writable.parent == tmp_path / "elsewhere" / "work" / "building"


async def test_set_up_code_of_other_bytes_than_the_locked_ones_does_not_run(
    cache, elsewhere, launcher, index, tmp_path: Path
) -> None:
    index.add_source("sourced", "1.0", "    pass")
    lock = (await build(cache, launcher, "sourced")).lock
    index.add_source("sourced", "1.0", f"    open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(BuildFailed, match="What the lock names"):
        await build(elsewhere, launcher, "sourced", lock=lock)
    assert not (tmp_path / "ran").exists()


async def test_nobody_waits_for_the_hashes_of_wheels(cache, launcher, index) -> None:
    index.add_wheel("alpha", "1.0")
    phases: list[str] = []
    environment = await build(cache, launcher, "alpha", on_progress=phases.append)
    assert phases == ["resolving", "downloading", "installing"]
    (asked,) = [step for step in launcher.steps if "compile" in step.argv]
    assert not asked.online
    assert read_python_lock(environment.lock).unchecked == []


async def test_hashes_are_asked_for_without_network_and_after_set_up_code_where_it_was(
    cache, launcher, index, root: Path
) -> None:
    index.add_source("sourced", "1.0", "    pass")
    environment = await build(cache, launcher, "sourced")
    (asked,) = [step for step in launcher.steps if "compile" in step.argv]
    (writable,) = asked.writable
    assert (asked.online, writable.parent) == (False, root / "work" / "building")
    assert Path(asked.environment["UV_CACHE_DIR"]).is_relative_to(writable)
    assert read_python_lock(environment.lock).unchecked == []


async def test_a_lock_made_for_another_host_is_resolved_here_and_the_log_says_so(
    cache, elsewhere, launcher, index, lines
) -> None:
    index.add_wheel("alpha", "1.0")
    lock = (await build(cache, launcher, "alpha")).lock
    index.add_wheel("alpha", "2.0")
    foreign = lock.replace("on linux-", "on plan9-")
    environment = await build(elsewhere, launcher, "alpha", lock=foreign, on_log=lines.append)
    assert "alpha==2.0" in environment.lock
    assert "made for cpython-" in lines[0]
    assert "on plan9-" in lines[0]
    assert lines[0].endswith("resolving here.")


async def test_where_the_index_names_no_hash_the_lock_has_that_of_the_file_that_came(cache, launcher, index) -> None:
    index.add_wheel("alpha", "1.0")
    index.name_no_hashes("alpha")
    lock = read_python_lock((await build(cache, launcher, "alpha")).lock)
    (alpha,) = [pin for pin in lock.pins if pin.name == "alpha"]
    assert set(alpha.hashes) == index.hashes("alpha")


async def test_a_source_that_the_index_has_no_hash_of_gives_its_version_and_the_log_says_so(
    cache, launcher, index, lines
) -> None:
    index.add_source("sourced", "1.0", "    pass")
    index.name_no_hashes("sourced")
    environment = await build(cache, launcher, "sourced", on_log=lines.append)
    assert "sourced==1.0\n" in environment.lock
    assert "warning: the index names no hash of sourced; the lock has its version." in lines


async def test_a_lock_without_hashes_gives_its_versions_and_the_log_says_so(
    cache, elsewhere, launcher, index, lines
) -> None:
    index.add_wheel("alpha", "1.0")
    lock = re.sub(r" --hash=\S+(?=\n)", "", (await build(cache, launcher, "alpha")).lock, count=1)
    index.add_wheel("alpha", "2.0")
    environment = await build(elsewhere, launcher, "alpha", lock=lock, on_log=lines.append)
    assert "The lock has no hash of alpha: only versions are compared there." in lines
    assert environment.lock == lock
    assert (environment.site_directories[0] / "alpha.py").read_text() == "version = '1.0'\n"


async def test_a_lock_of_versions_still_checks_the_hashes_it_has(cache, elsewhere, launcher, index) -> None:
    for name in ("alpha", "beta"):
        index.add_wheel(name, "1.0")
    lock = re.sub(r"(alpha==\S+) .*", r"\1", (await build(cache, launcher, "alpha\nbeta")).lock)
    index.add_wheel("beta", "1.0", {"beta.py": "evil = True\n"})
    with pytest.raises(BuildFailed, match=r"beta==1\.0"):
        await build(elsewhere, launcher, "alpha\nbeta", lock=lock)


async def test_hashes_that_the_worker_demands_stand_above_those_of_the_lock(cache, elsewhere, launcher, index) -> None:
    index.add_wheel("alpha", "1.0")
    (demanded,) = index.hashes("alpha")
    wanted = f"alpha==1.0 --hash={demanded}"
    lock = (await build(cache, launcher, wanted)).lock
    assert lock.count(demanded) == 1
    index.add_wheel("alpha", "1.0", {"alpha.py": "other = True\n"})
    (other,) = index.hashes("alpha")
    with pytest.raises(BuildFailed, match="What the lock names"):
        await build(elsewhere, launcher, wanted, lock=lock.replace(demanded, other))


@pytest.mark.parametrize(
    "line",
    ["--index-url http://evil.example/simple", "alpha @ http://evil.example/a.whl", "alpha>=1", "alpha", "alpha==1.*"],
)
async def test_a_lock_with_anything_but_exact_versions_is_refused(cache, launcher, line: str) -> None:
    with pytest.raises(BuildFailed, match="The lock cannot be read"):
        await build(cache, launcher, "", lock=f"# made for anything\n{line}\n")
    assert launcher.steps == []


async def test_an_index_that_is_away_is_no_obstacle_for_what_is_cached(cache, launcher, index, lines) -> None:
    index.add_wheel("alpha", "1.0")
    index.add_wheel("beta", "1.0")
    both = read_python_lock((await build(cache, launcher, "alpha\nbeta")).lock)
    alone = dataclasses.replace(both, pins=tuple(pin for pin in both.pins if pin.name != "alpha")).text
    await build(cache, launcher, "beta>=1", lock=alone)  # fetched once more, for its hashes
    launcher.online = False
    environment = await build(cache, launcher, "beta<2", lock=alone, on_log=lines.append)
    assert environment.lock == alone
    assert any("cannot be reached" in line for line in lines)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
@pytest.mark.network
async def test_a_package_lock_of_another_runner_is_installed_by_npm_ci(tools: Tools, launcher, tmp_path: Path) -> None:
    plan = plan_node(json.dumps({"name": "worker", "dependencies": {"left-pad": "^1.1.0"}}).encode(), None)
    older = json.dumps({"name": "worker", "dependencies": {"left-pad": "1.1.3"}}).encode()
    pinned = await EnvironmentCache(tmp_path / "a", tools).ensure(
        plan_node(older, None), launcher=launcher, on_log=ignore
    )
    lock = pinned.lock.replace('"left-pad": "1.1.3"', '"left-pad": "^1.1.0"')
    second = await EnvironmentCache(tmp_path / "b", tools).ensure(plan, lock=lock, launcher=launcher, on_log=ignore)
    installed = json.loads((second.path / "node_modules" / "left-pad" / "package.json").read_text())
    assert (installed["version"], second.lock) == ("1.1.3", lock)
    assert "ci" in launcher.steps[-1].argv
