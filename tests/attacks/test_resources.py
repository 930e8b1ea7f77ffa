"""Class E of the attack list, as far as it concerns a Worker run (items 38 to 43).

With cgroups the kernel kills and the verdict names the limit. Without them (an ordinary user on a host that delegates
nothing) the guest meets rlimits first: it may end by its own error instead, but it never gets beyond the limit.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

MIB = 1 << 20
PROMPT_MS = 250
"""How much later than its limit a guest may be gone."""


def punished(verdict: dict[str, Any], reason: str, mode: str) -> bool:
    """Tell whether the verdict names the limit or, without cgroups, at least no success."""
    if mode != "none":
        return bool(verdict["reason"] == reason)
    return verdict["reason"] == reason or (verdict["reason"] in ("exit", "signal") and verdict["exit_code"] != 0)


FLOODS = {
    "fork": "while True: os.fork()",
    "fork and ignore": """
while True:
    try: os.fork()
    except OSError: pass""",
    "threads": """
import threading
while True: threading.Thread(target=signal.pause, daemon=True).start()""",
    "exec churn": """
while True:
    if os.fork() == 0: os.execv('/bin/sh', ['sh', '-c', 'sleep 100'])""",
    "vfork churn": """
kept = []
while True: kept.append(subprocess.Popen(['sleep', '100']))""",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_the_guest_floods_the_host_with_processes(flood: str, arena: Any) -> None:  # 38
    guest = arena.python(FLOODS[flood], limits={"processes": 30, "wall": 10.0, "grace": 0.2})
    verdict = guest.end()
    assert punished(verdict, "processes", arena.mode), verdict


def test_the_guest_runs_the_shell_s_fork_bomb(arena: Any) -> None:  # 38
    guest = arena.start(["/bin/bash", "-c", ":(){ :|:& };:; wait"], limits={"processes": 30, "wall": 5.0, "grace": 0.2})
    verdict = guest.end()
    assert verdict["reason"] in ("processes", "exit", "signal"), verdict
    assert verdict["wall_ms"] < 5000


HOGS = {
    "growing bytes": "x = bytearray()\nwhile True: x += bytes(1 << 20)",
    "shared mapping": "import mmap\nm = mmap.mmap(-1, 400 << 20)\nfor i in range(0, 400 << 20, 4096): m[i] = 1",
    "many children": """
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(40 << 20); signal.pause()
x = bytearray(40 << 20); signal.pause()""",
}


@pytest.mark.parametrize("hog", HOGS)
def test_the_guest_takes_all_memory(hog: str, arena: Any) -> None:  # 39
    guest = arena.python(HOGS[hog], limits={"memory": 96 * MIB, "wall": 20.0, "grace": 0.2})
    verdict = guest.end()
    assert punished(verdict, "memory", arena.mode), verdict
    if arena.mode != "none":
        assert verdict["peak_memory"] <= 97 * MIB


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_the_guest_hides_memory_in_its_scratch_space(place: str, arena: Any) -> None:  # 39, 41
    """Scratch space is memory: charged to the guest with cgroups, and bounded by its own size always."""
    code = f"""
written = 0
with open('{place}/big', 'wb', buffering=0) as file:
    try:
        while True: written += file.write(bytes(1 << 20))
    except OSError as problem: say([written >> 20, errno.errorcode[problem.errno]])"""
    bounded = arena.python(code, limits={"memory": 40 * MIB, "wall": 20.0})
    if arena.mode != "none":
        assert bounded.end()["reason"] == "memory"
    else:
        written, error = bounded.said()
        assert (written, error) == (64, "ENOSPC")
    assert arena.ask(code, limits={"memory": 256 * MIB}) == [64, "ENOSPC"]


def test_the_guest_hides_memory_behind_a_descriptor(arena: Any) -> None:  # 39
    code = """
descriptor = os.memfd_create('hidden')
while True: os.write(descriptor, bytes(1 << 20))"""
    guest = arena.python(code, limits={"memory": 64 * MIB, "wall": 20.0})
    verdict = guest.end()
    assert punished(verdict, "memory", arena.mode)
    if arena.mode == "none":
        assert b"PermissionError" in guest.err


def test_the_guest_locks_memory(arena: Any) -> None:  # 39
    code = """
import mmap
m = mmap.mmap(-1, 8 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(m))
answer = lambda failed: errno.errorcode[ctypes.get_errno()] if failed else 'done'
say([answer(_libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(8 << 20))), answer(_libc.mlockall(3))])"""
    assert set(arena.ask(code)) <= {"ENOMEM", "EPERM", "EAGAIN"}


KERNEL_MEMORY = {
    "pipe buffers": """
import fcntl
kept = []
try:
    while True:
        pair = os.pipe(); kept.append(pair); os.set_blocking(pair[1], False)
        try: fcntl.fcntl(pair[1], 1031, 1 << 20)
        except OSError: pass
        try:
            while True: os.write(pair[1], bytes(65536))
        except BlockingIOError: pass
except OSError as problem: say(errno.errorcode[problem.errno])""",
    "socket buffers": """
kept = []
try:
    while True:
        pair = socket.socketpair(); kept.append(pair); pair[0].setblocking(False)
        pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        try:
            while True: pair[0].send(bytes(65536))
        except BlockingIOError: pass
except OSError as problem: say(errno.errorcode[problem.errno])""",
    "descriptors in flight": """
kept = []
try:
    while True:
        pair = socket.socketpair(); kept.append(pair); pair[0].setblocking(False)
        try:
            while True: socket.send_fds(pair[0], [b'x'], [0] * 200)
        except BlockingIOError: pass
except OSError as problem: say(errno.errorcode[problem.errno])""",
    "page tables": """
import mmap
kept = []
try:
    while True:
        m = mmap.mmap(-1, 1 << 31, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000); kept.append(m)
        for i in range(0, 1 << 31, 2 << 20): m[i]
except (OSError, MemoryError): say('refused')""",
    "files in the page cache": """
for _ in range(50):
    with open('/usr/bin/python3', 'rb') as file: file.read()
say('read')""",
}


@pytest.mark.parametrize("kind", KERNEL_MEMORY)
def test_the_guest_makes_the_kernel_hold_memory_for_it(kind: str, arena: Any) -> None:  # 39
    """Refused by a limit of its own or charged and killed; never without end."""
    guest = arena.python(KERNEL_MEMORY[kind], limits={"memory": 96 * MIB, "wall": 20.0, "open_files": 512})
    verdict = guest.end()
    assert verdict["reason"] in ("exit", "memory"), (verdict, guest.err)
    assert verdict["wall_ms"] < 20_000
    if arena.mode != "none":
        assert verdict["peak_memory"] <= 97 * MIB


SPINS = {
    "loop": "while 1: pass",
    "regular expression": "import re; re.match(r'(a+)+$', 'a' * 64 + 'b')",
    "power": "10 ** 10 ** 8",
    "modular power": "pow(3, 10 ** 300000, 10 ** 300000 + 1)",
    "sum": "sum(range(10 ** 12))",
    "many processes": """
for _ in range(4):
    if os.fork() == 0: break
while 1: pass""",
}


@pytest.mark.parametrize("spin", SPINS)
@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_spins_beyond_its_time(start: str, spin: str, arena: Any) -> None:  # 40
    code = "print('PARTIAL', flush=True)\n" + SPINS[spin]
    guest = getattr(arena, start)(code, limits={"wall": 0.5, "grace": 0.3})
    verdict = guest.end()
    assert verdict["reason"] == "timeout"
    assert 500 <= verdict["wall_ms"] <= 500 + 300 + PROMPT_MS
    assert guest.out == b"PARTIAL\n"


def test_the_guest_uses_more_cpu_time_than_it_may(arena: Any) -> None:  # 40
    guest = arena.python("while 1: pass", limits={"cpu_time": 1.0, "wall": 20.0})
    verdict = guest.end()
    assert verdict["reason"] == "cpu"
    assert verdict["wall_ms"] < 10_000


def test_the_guest_fills_the_disk(arena: Any) -> None:  # 41
    before = shutil.disk_usage(arena.directory).free
    code = """
answers = []
with open('/tmp/sparse', 'wb') as file:
    answers.append(tried(os.posix_fallocate, file.fileno(), 0, 1 << 40))
    answers.append(tried(os.truncate, '/tmp/sparse', 1 << 40) in ('done', 'EFBIG'))
    answers.append(os.stat('/tmp/sparse').st_blocks < 8 << 11)
os.unlink('/tmp/sparse')
answers.append(tried(open, '/attack', 'w'))
say(answers)"""
    assert arena.ask(code) == ["ENOSPC", True, True, "EROFS"]
    assert abs(shutil.disk_usage(arena.directory).free - before) < 1 << 30  # others use the disk, too


def test_the_guest_uses_up_all_files(arena: Any) -> None:  # 41
    code = """
made = 0
try:
    while made < 1_000_000: os.close(os.open(f'/work/{made}', os.O_CREAT)); made += 1
except OSError as problem: say([made, errno.errorcode[problem.errno]])"""
    mounts = [["Scratch", {"target": "/work", "size": 64 * MIB, "inodes": 2000}]]
    made, error = arena.ask(code, mounts=mounts)
    assert (made <= 2000, error) == (True, "ENOSPC")


ODD_TREES = {
    "long names": "for i in range(2000): open('/work/' + f'{i:04}' + 'n' * 250, 'w').close()",
    "odd names": r"""
for name in (b'\xff\xfe', b'\n', b'\x1b[2J', b'-rf', b'~', b'\xe2\x80\xae', b' ', b'CON'):
    open(b'/work/' + name, 'w').close()""",
    "closed": """
os.makedirs('/work/a/b'); open('/work/a/b/file', 'w').close()
os.chmod('/work/a/b', 0); os.chmod('/work/a', 0)""",
}


@pytest.mark.parametrize("shape", ODD_TREES)
def test_the_guest_leaves_a_tree_that_is_hard_to_remove(shape: str, arena: Any) -> None:  # 41
    work = arena.workspace("tree-" + shape.replace(" ", "-"))
    mounts = [["Writable", {"source": str(work), "target": "/work"}]]
    assert arena.python(ODD_TREES[shape] + "\nsay(1)", mounts=mounts).said() == 1
    shutil.rmtree(work)  # closed directories were opened for the runner's user
    assert not work.exists()


def test_the_guest_leaves_a_tree_deeper_than_any_path(throwaway: Any) -> None:  # 41
    work = throwaway.workspace("deep")
    mounts = [["Writable", {"source": str(work), "target": "/work"}]]
    code = "os.chdir('/work')\nfor _ in range(2000): os.mkdir('d' * 200); os.chdir('d' * 200)\nsay(1)"
    guest = throwaway.python(code, mounts=mounts)
    try:
        assert guest.end()["exit_code"] == 0
    finally:
        subprocess.run(["rm", "-rf", str(work)], check=True)


OUTPUT_FLOODS = {
    "no newline": "import itertools\nfor _ in itertools.repeat(0): sys.stdout.buffer.write(b'x' * 65536)",
    "short lines": "while True: sys.stdout.write('a\\n' * 10000)",
    "one long line": "sys.stdout.write('y' * (200 << 20))",
    "errors": "while True: sys.stderr.write('e' * 65536)",
    "interleaved": "while True: os.write(1, b'o' * 4096); os.write(2, b'e' * 4096)",
    "from a child": "os.fork()\nwhile True: os.write(1, b'c' * 65536)",
}


@pytest.mark.parametrize("flood", OUTPUT_FLOODS)
def test_the_guest_floods_its_output(flood: str, arena: Any) -> None:  # 41, 42
    limits = {"output": 1 * MIB, "wall": 20.0, "grace": 0.2}
    guest = arena.python(OUTPUT_FLOODS[flood], limits=limits)
    verdict = guest.end()
    assert verdict["reason"] == "output", verdict
    assert len(guest.out) + len(guest.err) == 1 * MIB


BYTES = {
    "invalid UTF-8": b"\xff\xfe\x80 broken \xc3\x28",
    "lone surrogate": b"\xed\xa0\x80",
    "NUL": b"a\0b",
    "carriage returns": b"10%\r20%\r30%\n",
    "terminal codes": b"\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]8;;http://x\x07",
    "byte order mark": b"\xef\xbb\xbftext",
    "line separator": "a\u2028b\u0085c".encode(),
}


@pytest.mark.parametrize("kind", BYTES)
def test_the_guest_prints_bytes_that_confuse_readers(kind: str, arena: Any) -> None:  # 43
    """Output arrives as it was written; whoever shows it makes it harmless."""
    guest = arena.python(f"os.write(1, {BYTES[kind]!r}); os.write(2, {BYTES[kind]!r})")
    assert guest.end()["reason"] == "exit"
    assert (guest.out, guest.err) == (BYTES[kind], BYTES[kind])


def test_the_guest_splits_a_character_between_writes(arena: Any) -> None:  # 43
    guest = arena.python("for byte in '🦀'.encode(): os.write(1, bytes([byte])); time.sleep(0.01)")
    guest.end()
    assert guest.out.decode() == "🦀"
