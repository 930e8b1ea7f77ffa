"""Half-made sandboxes, and the sessions that move into them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.sessions import SessionOptions
from clawplane.runner.sessions.sites import _can_wait
from clawplane.sandbox.policy import Policy, ReadOnly, Writable

PATIENCE = 20.0
LOOK = "import os; (os.environ.get('WHO'), sorted(os.listdir('/workspace')))"


@pytest.fixture
async def house(open_house: Any) -> Any:
    """A house with two sites, in which no ready sandbox is left."""
    house = await open_house(session_pool=4)
    async with asyncio.timeout(PATIENCE):
        await house.sites.full()
    return house


def home(house: Any, stay: Any) -> int:
    """Return the pid of the first process of a session's sandbox."""
    return int(house._lives[stay.spec.session].residence.resident.pid)


def waiting(house: Any) -> set[int]:
    """Return the pids of the sites."""
    return {site.pid for site in house.sites._waiting["bare"]}


async def test_a_session_with_a_workspace_of_its_own_moves_into_a_site_that_is_replaced(house: Any, begin: Any) -> None:
    sites = waiting(house)
    assert len(sites) == 2
    stay = await begin(house, workspace="mine", environment={"WHO": "me"})
    assert home(house, stay) in sites
    await stay.shell("touch /workspace/kept")
    result = await stay.python(LOOK)
    assert result.results[0]["text/plain"] == "('me', ['kept'])"
    async with asyncio.timeout(PATIENCE):
        await house.sites.full()
    assert len(waiting(house)) == 2
    assert home(house, stay) not in waiting(house)


async def test_its_workspace_is_there_for_the_next_session_and_belongs_to_the_runner(
    house: Any, begin: Any, tmp_path: Path
) -> None:
    first = await begin(house, workspace="mine")
    await first.shell("echo kept > /workspace/kept")
    await first.delete()
    (kept,) = tmp_path.rglob("kept")
    assert kept.stat().st_uid == os.geteuid()
    second = await begin(house, workspace="mine")
    assert (await second.shell("cat /workspace/kept")).stdout == "kept\n"


async def test_sessions_on_sites_see_nothing_of_each_other(house: Any, begin: Any) -> None:
    sites = waiting(house)
    one, other = await begin(house, workspace="one"), await begin(house, workspace="other")
    assert {home(house, one), home(house, other)} == sites
    await one.shell("echo secret > /workspace/secret; echo secret > /tmp/secret; sleep 600 &")
    seen = await other.shell("ls -A /workspace; cat /tmp/secret; ps -e 2>/dev/null | grep -c sleep; hostname")
    assert "secret" not in seen.stdout
    assert "\n0\n" in f"\n{seen.stdout}"


async def test_a_session_with_other_limits_gets_a_sandbox_of_its_own(house: Any, begin: Any) -> None:
    sites = waiting(house)
    stay = await begin(house, workspace="mine", memory=300)
    assert home(house, stay) not in sites
    assert waiting(house) == sites


async def test_a_site_that_has_died_is_passed_over(house: Any, begin: Any) -> None:
    dead = house.sites._waiting["bare"][0]
    os.kill(dead.pid, signal.SIGKILL)
    await dead.wait()
    stay = await begin(house, workspace="mine")
    assert (await stay.python("1")).error is None
    assert house.sites.take(SessionOptions(profile="full")) is None


def test_a_workspace_that_would_hide_another_tree_is_not_mounted_last() -> None:
    workspace = Writable("/somewhere", "/workspace")
    assert _can_wait(Policy(mounts=(workspace, ReadOnly("/opt", "/opt"))))
    assert not _can_wait(Policy(mounts=(workspace, ReadOnly("/workspace/python", "/workspace/python"))))
