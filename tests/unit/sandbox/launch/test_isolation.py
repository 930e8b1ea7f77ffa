"""What a guest cannot see or do, and what it leaves behind: nothing."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.policy import Limits

LOOK_AROUND = """
import os, sys
print(sorted(os.environ))
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try: data = open(f"/proc/{pid}/{name}", "rb").read()
        except OSError: continue
        if b"hunter2" in data or b"zygote" in data or b"clawplane" in data: print("leak", pid, name, data)
print(sorted(filter(str.isdigit, os.listdir("/proc")), key=int)[0], len(os.listdir("/proc/self/fd")))
print([name for name in sys.modules if "clawplane" in name], [path for path in sys.path if "clawplane" in path])
try:
    import clawplane
except ModuleNotFoundError:
    print("not importable")
print(open("/proc/self/cgroup").read().split(":")[-1].strip())
"""
PRIVILEGES = r"""
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status
unshare -U true; unshare -n true; mount -t tmpfs x /tmp; mount -o remount,rw /usr; hostname other; chroot / true
"""


async def test_neither_environment_nor_descriptors_nor_modules_of_the_supervisor_reach_a_guest(
    guests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    with open(os.devnull) as kept_open:
        os.set_inheritable(kept_open.fileno(), True)
        ended = await guests.run_python(LOOK_AROUND, environment={"ONLY": "this"})
    lines = ended.stdout.splitlines()
    assert lines == ["['HOME', 'LANG', 'ONLY', 'PATH']", "1 4", "[] []", "not importable", "/"]


async def test_a_guest_has_no_capability_no_privilege_and_an_id_that_is_not_root(guests: Any) -> None:
    ended = await guests.run("sh", "-c", PRIVILEGES)
    status = dict(line.split(":\t", 1) for line in ended.stdout.splitlines())
    assert status["Uid"].split() == status["Gid"].split() == ["1000"] * 4
    assert {status[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert len(ended.stderr.splitlines()) >= 6  # every attempt was refused


async def test_the_ids_on_the_host_belong_to_one_guest_alone_and_never_to_root(guests: Any) -> None:
    first, second = await asyncio.gather(guests.start("sleep", "60"), guests.start("sleep", "60"))
    await asyncio.gather(first.ready(), second.ready())
    owners = [_host_uid(each.pid) for each in (first, second)]
    assert 0 not in owners
    if os.geteuid() == 0:
        assert owners[0] != owners[1]
        assert all(200_000 <= owner < 204_096 for owner in owners)
    await asyncio.gather(first.stop(), second.stop())


async def test_two_guests_share_neither_files_nor_processes_nor_loopback(guests: Any) -> None:
    source = """
import os, socket, sys, time
open("/tmp/mark", "w"); open("/dev/shm/mark", "w"); open("/app/mark", "w")
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\\0mark"); abstract.listen()
tcp = socket.create_server(("127.0.0.1", 7777))
print("up", flush=True)
time.sleep(60)
"""
    first = await guests.start_python(source)
    await guests.read_until(first, b"up")
    look = """
import os, socket
print([os.path.exists(f"{d}/mark") for d in ("/tmp", "/dev/shm", "/app")])
for family, address in ((socket.AF_UNIX, "\\0mark"), (socket.AF_INET, ("127.0.0.1", 7777))):
    try: socket.socket(family).connect(address); print("reached")
    except ConnectionRefusedError: print("refused")
print(len([p for p in os.listdir("/proc") if p.isdigit()]))
"""
    ended = await guests.run_python(look, name="other.py")
    assert ended.stdout.splitlines() == ["[False, False, False]", "refused", "refused", "2"]
    await first.stop()


async def test_a_guest_has_loopback_its_host_name_and_the_names_it_was_given(guests: Any) -> None:
    source = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
print(socket.gethostname(), socket.gethostbyname("inner.example.com"), socket.gethostbyname("localhost"))
print([name for _, name in socket.if_nameindex()])
"""
    ended = await guests.run_python(source, host_name="box", names={"inner.example.com": "127.0.0.1"})
    assert ended.stdout == "box 127.0.0.1 127.0.0.1\n['lo']\n"


async def test_the_host_network_is_shared_only_on_request(guests: Any) -> None:
    with_host = await guests.run("readlink", "/proc/self/ns/net", network="host")
    without = await guests.run("readlink", "/proc/self/ns/net")
    assert with_host.stdout.strip() == os.readlink("/proc/self/ns/net")
    assert without.stdout.strip() != os.readlink("/proc/self/ns/net")


async def test_a_guest_cannot_signal_or_read_its_reaper(guests: Any) -> None:
    source = """
import os, signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGUSR1, signal.SIGCHLD):
    os.kill(1, number)
for name in ("mem", "environ", "fd"):
    try: (os.listdir if name == "fd" else open)(f"/proc/1/{name}"); print("open", name)
    except PermissionError: pass
print("alive")
"""
    ended = await guests.run_python(source)
    assert ended.stdout == "alive\n"
    assert ended.verdict.succeeded


async def test_runs_leave_no_descriptor_no_mount_no_group_and_no_zombie(guests: Any) -> None:
    await guests.run_python("print(1)")
    before = _traces()
    for _ in range(5):
        await asyncio.gather(*[guests.run_python("print(1)") for _ in range(4)])
    await guests.run("no-such-program")
    await guests.run("sleep", "60", limits=Limits(wall=0.1, grace=0.1))
    process = await guests.start("sleep", "60")
    await process.stop()
    gc.collect()
    assert _traces() == before


def _host_uid(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    raise AssertionError(pid)


def _traces() -> dict[str, object]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    groups = [
        each for place in Path("/sys/fs/cgroup").glob(f"*/clawplane-{os.getpid()}*") for each in place.glob("guest-*")
    ]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": Path("/proc/self/mountinfo").read_text().count("\n"),
        "children": children,
        "groups": groups,
    }
