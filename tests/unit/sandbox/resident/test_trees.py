"""Ending a member with everything that descends from it, and nothing else."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

import pytest

from clawplane.sandbox import credentials
from clawplane.sandbox.resident import ResidentError

DETACH = "setsid sh -c 'setsid sleep 600 & setsid sleep 600 &'"
COPY = """
import os, socket
theirs = socket.socket(fileno=socket.recv_fds(connection, 1, 1)[1][0])
middle = os.fork()
if middle == 0:
    if os.fork():
        os._exit(0)
    while os.getppid() != 1:
        os.sched_yield()
    connection.close()
    connection = theirs
    connection.send(b"here")
    answer = "copy"
else:
    os.waitpid(middle, 0)
    theirs.close()
    answer = os.getpid()
"""


async def test_killing_a_tree_reaches_daemons_that_left_session_and_parent(residents: Any) -> None:
    resident = await residents.open()
    shell = await residents.execute(resident, "sh", "-c", f"{DETACH}; exec sleep 600")
    while len(await residents.processes(resident)) < 4:
        pass
    await resident.kill_tree(shell)
    assert (await shell.wait()).reason == "killed"
    assert await residents.processes(resident) == [1]


async def test_what_a_program_left_behind_ends_when_its_tree_is_killed_later(residents: Any) -> None:
    resident = await residents.open()
    shell = await residents.execute(resident, "sh", "-c", DETACH)
    assert (await shell.wait()).exit_code == 0
    assert len(await residents.processes(resident)) == 3
    await resident.kill_tree(shell)
    assert await residents.processes(resident) == [1]


async def test_a_member_that_is_born_while_another_one_is_killed_lives(residents: Any) -> None:
    resident = await residents.open()
    old = await residents.fork(resident)
    for turn in range(40):
        _, new = await asyncio.gather(resident.kill_tree(old.member), residents.fork(resident))
        assert await new.ask(f"answer = {turn}") == turn
        old = new


async def test_killing_one_tree_spares_an_interpreter_and_its_older_daemons(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    await python.ask(f"import subprocess; subprocess.run({DETACH!r}, shell=True)")
    for _ in range(4):  # start times are counted in hundredths of a second
        before = await residents.processes(resident)
    shell = await residents.execute(resident, "sh", "-c", f"{DETACH}; exec sleep 600")
    await resident.kill_tree(shell)
    assert await residents.processes(resident) == before
    assert await python.ask("answer = 'alive'") == "alive"


async def test_a_fork_bomb_is_ended_as_a_tree_and_the_interpreter_goes_on(residents: Any) -> None:
    resident = await residents.open(limits={"processes": 40})
    python = await residents.fork(resident)
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    member = await residents.execute(resident, residents.python, "-c", bomb)
    if residents.bounded:
        async with asyncio.timeout(30):
            while not resident.refused_forks():
                await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await resident.kill_tree(member)
    assert await python.ask("answer = 'alive'") == "alive"
    assert await residents.processes(resident) == [1, python.member.pid]


async def test_orphans_are_reaped_without_a_word(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    make = "import os\nfor _ in range(100):\n  if os.fork() == 0:\n    os.fork()\n    os._exit(0)\n  os.wait()"
    await python.ask(make)
    async with asyncio.timeout(30):
        while await residents.processes(resident) != [1, python.member.pid]:
            pass


async def test_a_copy_of_an_interpreter_becomes_a_member_that_lives_and_ends_by_itself(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    await python.ask("state = 'shared'")
    control, host_pid = await _copied(python)
    copy = await resident.adopt(host_pid)
    assert copy.pid != python.member.pid
    await resident.kill_tree(python.member)
    assert copy.end is None
    control.send(b'import subprocess; subprocess.run("setsid sleep 600 & true", shell=True); answer = state')
    assert await _hear(control) == b"'shared'"
    assert len(await residents.processes(resident)) == 3
    await resident.kill_tree(copy)
    assert (await copy.wait()).reason == "killed"
    assert await residents.processes(resident) == [1]
    control.close()


async def test_killing_a_copy_leaves_the_original(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    control, host_pid = await _copied(python)
    copy = await resident.adopt(host_pid)
    await resident.kill_tree(copy)
    assert await python.ask("answer = 'alive'") == "alive"
    assert (await copy.wait()).signal == signal.SIGKILL
    control.close()


async def test_only_a_child_of_the_same_first_process_can_be_adopted_and_once(residents: Any) -> None:
    resident, other = await residents.open(), await residents.open()
    python = await residents.fork(resident)
    stranger = await residents.fork(other)
    with pytest.raises(ResidentError, match=r"is no child|is not in this sandbox|is a member"):
        await resident.adopt(stranger.member.host_pid)
    with pytest.raises(ResidentError, match="is a member already"):
        await resident.adopt(python.member.host_pid)
    with pytest.raises(ResidentError, match="is no child"):
        await resident.adopt(resident.pid)
    ended = await residents.execute(resident, "true")
    await ended.wait()
    with pytest.raises(ResidentError, match="has ended"):
        await resident.adopt(ended.host_pid)


async def _copied(python: Any) -> tuple[socket.socket, int]:
    """Have an interpreter copy itself; returns our end of the copy's socket and the pid the kernel vouches for."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    credentials.demand(ours)
    with theirs:
        python.tell(COPY)
        socket.send_fds(python.control, [b"x"], [theirs.fileno()])
    assert await python.hear() == python.member.pid
    ours.settimeout(30)
    word, host_pid = await asyncio.to_thread(credentials.receive, ours, 64)
    assert word == b"here"
    assert await _hear(ours) == b"'copy'"
    return ours, host_pid


async def _hear(control: socket.socket) -> bytes:
    return await asyncio.to_thread(control.recv, 4096)
