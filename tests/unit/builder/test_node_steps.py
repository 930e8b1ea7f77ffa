from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.errors import BuildFailed
from clawplane.builder.plan import plan_node
from clawplane.builder.tools import Tools, find_node

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


def manifest(**dependencies: str) -> bytes:
    return json.dumps({"name": "worker", "dependencies": dependencies}).encode()


def ignore(line: str) -> None:
    pass


@pytest.fixture
def node_cache(root: Path, tools: Tools) -> EnvironmentCache:
    return EnvironmentCache(root, tools)


@needs_npm
@pytest.mark.network
async def test_a_package_is_installed_locked_and_installed_again_offline(root, tools, node_cache, launcher) -> None:
    plan = plan_node(manifest(**{"left-pad": "^1.3.0"}), None)
    first = await node_cache.ensure(plan, launcher=launcher, on_log=ignore)
    asked = subprocess.run(
        ["node", "-p", "require('left-pad')('x', 3)"],
        cwd=first.path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "  x\n"
    assert "node_modules/left-pad" in json.loads(first.lock)["packages"]
    locked = plan_node(manifest(**{"left-pad": "^1.3.0"}), first.lock.encode())
    launcher.online = False
    second = await EnvironmentCache(root, tools).ensure(locked, launcher=launcher, on_log=ignore)
    assert (second.reused, "ci" in launcher.steps[-1].argv) == (False, True)
    assert (second.node_modules / "left-pad" / "package.json").exists()


@needs_npm
@pytest.mark.network
async def test_a_version_that_does_not_exist_fails_with_npms_words(node_cache, launcher) -> None:
    with pytest.raises(BuildFailed, match="No matching version found for left-pad"):
        await node_cache.ensure(plan_node(manifest(**{"left-pad": "^99.0.0"}), None), launcher=launcher, on_log=ignore)


@needs_npm
@pytest.mark.network
async def test_install_scripts_run_in_a_step_without_network_shared_cache_or_token(
    root, node_cache, launcher, tools: Tools
) -> None:
    await node_cache.ensure(plan_node(manifest(esbuild="0.25.0"), None), launcher=launcher, on_log=ignore)
    fetch, rebuild = launcher.steps
    assert "rebuild" in rebuild.argv
    assert (fetch.online, rebuild.online) == (True, False)
    assert fetch.environment["npm_config_ignore_scripts"] == "true"
    assert root / "work" / "npm" in fetch.writable
    (own,) = rebuild.writable
    assert own.parent == root / "work" / "building"
    assert rebuild.environment["npm_config_cache"].startswith(str(own))


async def test_a_worker_without_dependencies_starts_no_installer(node_cache, launcher: Any) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    environment = await node_cache.ensure(plan_node(None, None), launcher=launcher, on_log=ignore)
    assert environment.node_modules is not None
    assert environment.node_modules.is_dir()
    assert launcher.steps == []


async def test_a_runner_without_node_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"no node: install Node\.js"):
        await find_node({"PATH": str(tmp_path)})
    (tmp_path / "node").symlink_to("/bin/true")
    with pytest.raises(BuildFailed, match=r"no npm: install Node\.js"):
        await find_node({"PATH": str(tmp_path)})


@needs_npm
@pytest.mark.parametrize(
    "swap", ["rm -rf tree && ln -s {outside} tree", "rm -rf tree/node_modules && ln -s {outside} tree/node_modules"]
)
async def test_an_install_script_that_swaps_the_environment_for_a_link_gets_nothing_kept_and_touches_nothing(
    root, node_cache, launcher, tmp_path: Path, swap: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "node_modules").mkdir(parents=True, mode=0o700)
    secret = outside / "node_modules" / "secret"
    secret.write_text("of the host")
    secret.chmod(0o600)
    installed = """echo '{"lockfileVersion": 3, "x": {"hasInstallScript": true}}' > tree/package-lock.json"""
    run = launcher.run

    async def stand_in(argv, **how):
        script = swap.format(outside=outside) if "rebuild" in argv else installed
        return await run(["sh", "-c", script], **how)

    launcher.run = stand_in
    with pytest.raises(BuildFailed, match=r"cannot be (kept|used)"):
        await node_cache.ensure(plan_node(manifest(**{"left-pad": "^1.3.0"}), None), launcher=launcher, on_log=ignore)
    assert secret.stat().st_mode & 0o777 == 0o600
    assert [*(root / "environments").iterdir()] == []
