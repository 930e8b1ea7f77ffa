"""Listeners, crowds, and the death of everything but the guest."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.launch import Sandbox
from clawplane.sandbox.policy import Limits, Listener, Policy

PATIENCE_MS = 30_000
SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from clawplane.sandbox.launch import Sandbox
from clawplane.sandbox.policy import Policy
async def main():
    sandbox = await Sandbox.open(state_directory=Path(sys.argv[1]))
    process = await sandbox.run(Policy(), ["sleep", "600"])
    await process.ready()
    print(process.pid, flush=True)
    await process.wait()
asyncio.run(main())
"""


async def test_a_guest_reaches_a_listener_of_the_supervisor_from_its_first_line(guests: Any) -> None:
    listeners = (Listener("127.0.0.1", 20086), Listener("127.0.0.1", 1080), Listener("::1", 20086))
    source = """
import socket
for address in (("127.0.0.1", 20086), ("127.0.0.1", 1080), ("::1", 20086)):
    with socket.create_connection(address) as connection: print(connection.recv(100).decode())
"""
    process = await guests.start_python(source, listeners=listeners)
    assert set(process.listeners) == set(listeners)

    async def greet(listener: Listener) -> None:
        listening = process.listeners[listener]
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        listening.setblocking(False)
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.send(f"hello from {listener.port}".encode())
        connection.close()
        listening.close()

    ended, *_ = await asyncio.gather(guests.finish(process), *[greet(each) for each in listeners])
    assert ended.stdout.splitlines() == ["hello from 20086", "hello from 1080", "hello from 20086"]


async def test_an_address_that_cannot_be_listened_on_is_named(guests: Any) -> None:
    process = await guests.start("true", listeners=(Listener("192.0.2.1", 80),))
    verdict = await process.wait()
    assert verdict.reason == "setup"
    assert "cannot listen on 192.0.2.1:80" in verdict.detail


async def test_many_guests_started_at_once_all_run_and_get_their_own_output(guests: Any) -> None:
    async def one(number: int) -> None:
        ended = await guests.run("echo", str(number))
        assert (ended.stdout, ended.verdict.reason) == (f"{number}\n", "exit")

    await asyncio.gather(*[one(number) for number in range(60)])


async def test_the_event_loop_keeps_turning_while_guests_start(guests: Any) -> None:
    await guests.run("true")
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - before)

    ticking = asyncio.ensure_future(tick())
    await asyncio.gather(*[guests.run("true") for _ in range(20)])
    ticking.cancel()
    assert longest < 0.25


async def test_a_zygote_that_is_killed_takes_its_guests_along_and_comes_back(guests: Any) -> None:
    process = await guests.start_python("import time; print('up', flush=True); time.sleep(600)")
    await guests.read_until(process, b"up")
    await process.ready()
    os.kill(guests.zygote.pid, signal.SIGKILL)
    verdict = await asyncio.wait_for(process.wait(), 30)
    assert (verdict.reason, verdict.signal) == ("signal", signal.SIGKILL)
    assert "from outside" in verdict.detail
    assert (await guests.run_python("print('again')")).stdout == "again\n"


async def test_requests_in_flight_when_the_zygote_dies_end_with_a_verdict(guests: Any) -> None:
    await guests.run_python("pass")
    starting = [asyncio.ensure_future(guests.run_python("print(1)")) for _ in range(12)]
    await asyncio.wait(starting[:2], return_when=asyncio.FIRST_COMPLETED)
    os.kill(guests.zygote.pid, signal.SIGKILL)
    reasons = {ended.verdict.reason for ended in await asyncio.wait_for(asyncio.gather(*starting), 60)}
    assert reasons <= {"exit", "signal", "setup"}
    assert "exit" in reasons


async def test_closing_the_sandbox_ends_every_guest(tmp_path: Path) -> None:
    sandbox = await Sandbox.open(state_directory=tmp_path / "state")
    process = await sandbox.run(Policy(), ["sleep", "600"])
    await process.ready()
    pidfd = os.pidfd_open(process.pid)
    await sandbox.close()
    await sandbox.close()
    assert _gone(pidfd)
    assert (await process.wait()).reason == "aborted"
    assert list((tmp_path / "state").iterdir()) == []


def test_guests_of_a_killed_supervisor_die_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pidfd = os.pidfd_open(int(supervisor.stdout.readline()))
        supervisor.kill()
    assert _gone(pidfd)


async def test_a_start_that_is_cancelled_leaves_no_guest(guests: Any) -> None:
    starting = asyncio.ensure_future(guests.start("sleep", "600"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert (await guests.run("true")).verdict.succeeded
    await asyncio.wait_for(guests.sandbox.close(), 30)


@pytest.mark.parametrize("preparation", ["true", "echo 0 > /proc/sys/user/max_user_namespaces"])
def test_a_host_that_cannot_isolate_refuses_and_says_what_is_missing(tmp_path: Path, preparation: str) -> None:
    """Root of a user namespace that maps one id only: it can neither change ids nor, then, make user namespaces."""
    command = f'{preparation} && exec "$0" -c "$1" "$2"'
    ended = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", command, sys.executable, SUPERVISOR, str(tmp_path / "state")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "SandboxUnavailable: this host cannot isolate programs: " in ended.stderr
    assert "\n- " in ended.stderr
    assert ended.stdout == ""


async def test_a_zygote_whose_start_is_cancelled_leaves_nothing_open(guests: Any) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for turns in range(4):
        python = os.path.realpath(sys.executable)
        starting = asyncio.create_task(guests.sandbox.zygote(key=f"cancelled {turns}", python=python))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    assert set(os.listdir("/proc/self/fd")) == before


async def test_a_retired_zygote_takes_its_guests_along(guests: Any) -> None:
    process = await guests.start_python("import time; print('up', flush=True); time.sleep(600)")
    await guests.read_until(process, b"up")
    await guests.sandbox.retire(guests.zygote)
    assert (await asyncio.wait_for(process.wait(), 30)).reason == "signal"


async def test_stopping_twice_and_after_the_end_gives_the_same_verdict(guests: Any) -> None:
    process = await guests.start("sleep", "600", limits=Limits(grace=1.0))
    await process.ready()
    first, second = await asyncio.gather(process.stop(), process.stop())
    assert first == second == await process.stop() == await process.wait()
    process.kill()


def _gone(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(PATIENCE_MS))
    finally:
        os.close(pidfd)
