"""Residents that were begun before anybody knew who would live in them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.policy import Limits, Listener, Writable
from clawplane.sandbox.readiness import readable
from clawplane.sandbox.resident import ResidentError

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
PROXY = Listener("127.0.0.1", 1080)
ATTEMPTS = """
import os
def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as problem:
        return problem.errno
    return 0
places = ("", "/etc", "/usr", "/run", "/dev", "/proc", "/tmp", "/workspace")
answer = {path: attempt(os.mkdir, f"{path}/made") for path in places}
"""
ISOLATION = r"""
import os, re
TOLD = ("Cap", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "SigBlk")
mounts = []
for line in open("/proc/self/mountinfo"):
    fields, _, kind = line.partition(" - ")
    shown = " ".join([*fields.split()[4:6], *kind.split()[::2]])
    mounts.append(re.sub(r"uid=\d+|gid=\d+", "", shown))  # each has an identity of its own outside
answer = {
    "mounts": sorted(mounts),
    "status": [
        [line for line in open(f"/proc/{who}/status") if line.startswith(TOLD)] for who in ("1", "self")
    ],
    "limits": open("/proc/self/limits").read(),
    "maps": [open(f"/proc/self/{name}_map").read().split()[::2] for name in ("uid", "gid")],
    "score": [open(f"/proc/{who}/oom_score_adj").read() for who in ("1", "self")],
    "root": sorted(os.listdir("/")),
    "open": os.listdir("/proc/self/fd"),
    "name": os.uname().nodename,
}
"""


def a_workspace(parent: Path, name: str = "workspace") -> Writable:
    """Make a directory to be mounted."""
    (parent / name).mkdir()
    return Writable(str(parent / name), "/workspace")


async def test_whoever_moves_in_finds_their_workspace_and_environment(residents: Any, tmp_path: Path) -> None:
    begun = await residents.begin(listeners=(PROXY,))
    assert begun.listeners[PROXY].getsockname() == (PROXY.host, PROXY.port)
    resident = await begun.move_in(
        residents.policy(listeners=(PROXY,), mounts=(a_workspace(tmp_path),), environment={"WHO": "me"})
    )
    said, _end = await residents.run(resident, "sh", "-c", "echo $WHO; echo x > /workspace/a; cat /workspace/a")
    assert said == "me\nx\n"
    await resident.close()
    begun.listeners[PROXY].close()
    assert (tmp_path / "workspace" / "a").stat().st_uid == os.geteuid()


async def test_they_are_isolated_exactly_as_in_one_that_was_opened_at_once(residents: Any, tmp_path: Path) -> None:
    policy = residents.policy(mounts=(a_workspace(tmp_path, "one"),))
    at_once = await residents.fork(await residents.sandbox.open_resident(residents.zygote, policy))
    begun = await residents.begin()
    policy = residents.policy(mounts=(a_workspace(tmp_path, "two"),))
    later = await residents.fork(await begun.move_in(policy))
    expected, found = await at_once.ask(ISOLATION), await later.ask(ISOLATION)
    assert len(expected["mounts"]) > 10
    assert found == expected


async def test_they_may_write_to_the_workspace_and_the_private_trees_only(residents: Any, tmp_path: Path) -> None:
    begun = await residents.begin()
    python = await residents.fork(await begun.move_in(residents.policy(mounts=(a_workspace(tmp_path),))))
    tried = await python.ask(ATTEMPTS)
    assert {path for path, number in tried.items() if number == 0} == {"/tmp", "/workspace"}
    assert set(tried.values()) <= {0, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}, tried


async def test_one_that_waits_is_out_of_sight_of_those_who_live_next_door(residents: Any) -> None:
    begun = await residents.begin()
    neighbour = await residents.open()
    assert await residents.processes(neighbour) == [1]
    python = await residents.fork(neighbour)
    own = await python.ask(f"import os; answer = [os.readlink(f'/proc/self/ns/{{kind}}') for kind in {KINDS}]")
    theirs = [os.readlink(f"/proc/{begun.pid}/ns/{kind}") for kind in KINDS]
    assert not set(own) & set(theirs)


async def test_nothing_can_be_started_before_somebody_moves_in(residents: Any) -> None:
    begun = await residents.begin()
    with pytest.raises(ResidentError, match="nobody has moved in yet"):
        await residents.execute(begun, "true")


async def test_members_asked_for_meanwhile_start_as_soon_as_it_stands(residents: Any) -> None:
    begun = await residents.begin()
    starting: list[asyncio.Task[Any]] = []
    await begun.move_in(
        residents.policy(), meanwhile=lambda resident: starting.append(asyncio.create_task(residents.fork(resident)))
    )
    assert await (await starting[0]).ask("answer = 1 + 1") == 2


async def test_only_mounts_and_environment_may_be_new(residents: Any) -> None:
    begun = await residents.begin()
    for changed in (residents.policy(limits=Limits(wall=None, processes=3)), residents.policy(host_name="other")):
        with pytest.raises(ValueError, match="only be given more mounts"):
            await begun.move_in(changed)
    await begun.move_in(residents.policy())


async def test_a_workspace_that_cannot_be_mounted_is_an_error_that_names_it(residents: Any) -> None:
    begun = await residents.begin()
    with pytest.raises(ResidentError, match="Writable mount at /workspace: "):
        await begun.move_in(residents.policy(mounts=(Writable("/no/such", "/workspace"),)))
    assert not begun.alive


async def test_one_that_cannot_be_begun_says_why(residents: Any) -> None:
    with pytest.raises(ResidentError, match="Writable mount at /somewhere: "):
        await residents.begin(mounts=(Writable("/no/such", "/somewhere"),))


async def test_one_that_waits_ends_when_it_is_closed_and_when_its_supervisor_is_gone(residents: Any) -> None:
    closed, killed, left = [await residents.begin() for _ in range(3)]
    assert (await closed.close()).reason == "aborted"
    os.kill(killed.pid, signal.SIGKILL)
    assert (await killed.wait()).reason == "setup"
    with pytest.raises(ResidentError, match="the sandbox has ended"):
        await killed.move_in(residents.policy())
    ended = os.pidfd_open(left.pid)
    left._channel.shutdown(2)  # as when this process dies
    async with asyncio.timeout(30):
        await readable(ended)
    os.close(ended)
