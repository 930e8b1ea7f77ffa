"""Class B of the attack list: /proc, /sys and kernel interfaces (items 16 to 19)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

INNER_SECRETS = ("environ", "mem", "maps", "smaps", "fd", "cwd", "exe", "root", "auxv", "stack", "syscall", "map_files")


@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_looks_for_processes_that_are_not_its_own(start: str, arena: Any) -> None:  # 16
    code = """
pids = sorted(int(each) for each in os.listdir('/proc') if each.isdigit())
say([pids, os.getppid(), {pid: open(f'/proc/{pid}/cmdline').read().split(chr(0))[0] for pid in pids}])"""
    pids, parent, names = getattr(arena, start)(code).said()
    assert parent == 1
    assert len(pids) == 2  # pid 1 and the guest
    assert "driver" not in str(names)
    assert str(arena.directory) not in str(names)


@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_looks_into_the_process_that_reaps_it(start: str, arena: Any) -> None:  # 16
    code = f"""
def reach(name):
    path = f'/proc/1/{{name}}'
    if name in ('fd', 'map_files'): return tried(os.listdir, path)
    if name in ('cwd', 'exe', 'root'): return tried(os.readlink, path)
    return tried(lambda: open(path, 'rb').read(1))
say([reach(name) for name in {INNER_SECRETS}])"""
    assert set(getattr(arena, start)(code).said()) <= {"EACCES", "EPERM"}


@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_looks_for_secrets_in_environments_and_memory(start: str, arena: Any, canary: Path) -> None:  # 16
    """The runner's environment holds a secret; neither the block a process started with nor its memory may."""
    code = """
blocks = b''
for pid in [each for each in os.listdir('/proc') if each.isdigit()]:
    try: blocks += open(f'/proc/{pid}/environ', 'rb').read()
    except OSError: pass
import re
# as patterns, because a needle in one piece would find itself
found = bool(re.search(rb'canary-5f1d9c0[7]', blocks))
for line in open('/proc/self/maps'):
    low, _, high = line.split()[0].partition('-')
    if ' r' not in line or '[v' in line: continue
    try:
        memory = open('/proc/self/mem', 'rb', buffering=0); memory.seek(int(low, 16))
        data = memory.read(int(high, 16) - int(low, 16)) or b''
    except (OSError, OverflowError): continue
    found = found or bool(re.search(rb'CLAWPLANE_API[_]KEY=|canary-5f1d9c0[7]', data))
say([found, sorted(os.environ)])"""
    found, names = getattr(arena, start)(code).said()
    assert not found
    assert not [name for name in names if "CLAWPLANE" in name]


def test_the_guest_tries_every_kernel_setting_for_writing(arena: Any) -> None:  # 17
    code = """
writable = []
for directory, _, names in os.walk('/proc/sys'):
    for name in names:
        path = os.path.join(directory, name)
        def write_it_back():
            descriptor = os.open(path, os.O_WRONLY)
            os.write(descriptor, open(path, 'rb').read())
        if tried(write_it_back) == 'done': writable.append(path)
say(writable)"""
    assert arena.ask(code) == []


KNOBS = {
    "/proc/sys/kernel/core_pattern": "|/tmp/evil",
    "/proc/sysrq-trigger": "b",
    "/proc/sys/vm/drop_caches": "3",
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/kernel/modprobe": "/tmp/evil",
    "/proc/sys/fs/binfmt_misc/register": ":x:M::evil::/tmp/evil:",
    "/sys/kernel/uevent_helper": "/tmp/evil",
    "/sys/fs/cgroup/release_agent": "/tmp/evil",
    "/proc/sys/kernel/unprivileged_bpf_disabled": "0",
    "/proc/irq/default_smp_affinity": "1",
    "/proc/acpi/wakeup": "x",
    "/proc/mtrr": "x",
    "/proc/1/oom_score_adj": "-1000",
    "/proc/1/uid_map": "0 0 1",
    "/proc/self/uid_map": "0 0 1",
    "/proc/self/setgroups": "allow",
    "/proc/self/oom_score_adj": "-1000",
}


@pytest.mark.parametrize("path", KNOBS)
def test_the_guest_tries_to_turn_a_knob_of_the_kernel(path: str, arena: Any) -> None:  # 17
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    code = f"say(tried(lambda: os.write(os.open({path!r}, os.O_WRONLY), {KNOBS[path].encode()!r})))"
    assert arena.ask(code) in {"EACCES", "EPERM", "EROFS", "ENOENT", "EINVAL"}
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_the_guest_looks_for_cgroup_and_sysfs_mounts(arena: Any) -> None:  # 17
    code = """
kinds = sorted({line.split()[2] for line in open('/proc/self/mounts')})
say([kinds, os.path.exists('/sys/kernel'), open('/proc/self/cgroup').read()])"""
    kinds, sysfs, groups = arena.ask(code)
    assert not {"cgroup", "cgroup2", "sysfs", "debugfs", "tracefs", "securityfs", "bpf"} & set(kinds)
    assert not sysfs
    if arena.mode != "none":
        memory = [line for line in groups.splitlines() if ":memory:" in line or line.startswith("0::")]
        assert all(line.endswith(":/") for line in memory), groups  # the namespace hides where we are


@pytest.mark.parametrize(
    "path",
    [
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/kallsyms",
        "/proc/keys",
        "/proc/key-users",
        "/proc/timer_list",
        "/proc/kpagemap",
    ],
)
def test_the_guest_reads_what_the_kernel_tells_about_itself(path: str, arena: Any) -> None:  # 18
    """Refused, absent or empty; symbols may be listed with their addresses hidden."""
    code = f"""
try: text = open({path!r}, 'rb').read(1 << 20).decode(errors='replace')
except OSError: text = ''
say([line for line in text.splitlines() if line.split()[:1] != ['0000000000000000']])"""
    assert arena.ask(code) == []


def test_the_guest_reads_the_kernel_log(arena: Any) -> None:  # 18
    guest = arena.shell("dmesg; cat /dev/kmsg; true")
    guest.end()
    assert guest.out == b""


def test_the_guest_reads_its_mount_table_for_paths_of_the_host(arena: Any) -> None:  # 18
    text = arena.ask("say(open('/proc/self/mountinfo').read() + open('/proc/self/mounts').read())")
    assert str(arena.directory) not in text
    assert "clawplane" not in text


def test_the_guest_patches_its_own_memory_and_not_its_reapers(arena: Any) -> None:  # 19
    """Its own memory is its own; results are claimed by the guest, verdicts are measured from outside."""
    code = """
buffer = ctypes.create_string_buffer(b'before')
with open('/proc/self/mem', 'r+b', buffering=0) as memory:
    memory.seek(ctypes.addressof(buffer)); memory.write(b'after!')
say([buffer.value.decode(), tried(open, '/proc/1/mem', 'r+b')])"""
    assert arena.ask(code) == ["after!", "EACCES"]


def test_the_guest_renames_itself_after_the_reaper(arena: Any) -> None:  # 16
    """A name is no identity: stopping and judging go by descriptors."""
    guest = arena.python("open('/proc/self/comm', 'w').write('init'); print('NAMED', flush=True); signal.pause()")
    guest.wait_for(b"NAMED")
    assert guest.stop()["reason"] == "aborted"
    assert not os.path.exists(f"/proc/{guest.pid}/exe")
