"""What passes from one session, or one life of it, to another: items 13, 22, 45 and 60 to 62 of the attack list."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from typing import Any, Final

import pytest

CHANCE: Final = """
import random, secrets, tempfile, uuid, os
print(random.random(), random.getrandbits(64), uuid.uuid4(), uuid.uuid1(), secrets.token_hex(16), os.urandom(8).hex(),
      tempfile.mktemp(), random.SystemRandom().random())
"""
PATCHES: Final = {
    "modules": "import json, random, os, re\n"
    "json.loads = random.random = os.listdir = re.compile = lambda *a, **k: 'patched'",
    "builtins": "import builtins\nbuiltins.len = builtins.print = lambda *a: 'patched'\nbuiltins.extra = 'patched'",
    "types": "import ctypes, gc\nspace = gc.get_referents(str.__dict__)[0]\nspace['patched'] = 'patched'\n"
    "ctypes.pythonapi.PyType_Modified(ctypes.py_object(str))",
    "sys": "import sys\nsys.path.append('/patched'); sys.modules['patched'] = sys; sys.flags_patched = 'patched'\n"
    "sys.setrecursionlimit(77); sys.setswitchinterval(1)",
    "surroundings": "import os, signal\nos.environ['PATCHED'] = 'patched'; os.umask(0); os.nice(5)\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.chdir('/tmp'); open('/tmp/patched', 'w').close()",
    "memory": "import ctypes\nctypes.memmove(id(1.5) + 16, b'\\0' * 8, 8)",
}
UNTOUCHED: Final = """
import builtins, json, os, random, re, signal, sys
[json.loads('[1]'), random.random() != 'patched', len(os.listdir('/tmp')), bool(re.compile('a')), len([1, 2]),
 hasattr(builtins, 'extra'), hasattr(str, 'patched'), '/patched' in sys.path, 'patched' in sys.modules,
 hasattr(sys, 'flags_patched'), sys.getrecursionlimit() > 900, 'PATCHED' in os.environ, os.nice(0), os.getcwd(),
 signal.getsignal(signal.SIGTERM) == signal.SIG_DFL]
"""
NICE: Final = os.nice(0)  # handed down to everybody
AS_EVER: Final = f"[[1], True, 0, True, 2, False, False, False, False, False, True, False, {NICE}, '/workspace', True]"


@pytest.mark.parametrize("name", PATCHES)
def test_what_one_session_patches_no_other_sees(begin: Callable[..., Any], name: str) -> None:
    """62: neither one that lived before, nor one that is forked after it, nor its own next interpreter."""
    before, attacker = begin(), begin()
    attacker.python(PATCHES[name])
    after = begin()
    assert [each.value(UNTOUCHED) for each in (before, after)] == [AS_EVER, AS_EVER]
    attacker.reset()
    if name == "surroundings":
        attacker.shell("rm /tmp/patched")  # files stay
    assert attacker.value(UNTOUCHED) == AS_EVER


def test_chance_differs_between_sessions_interpreters_and_branches(begin: Callable[..., Any]) -> None:
    """62: every number and name that is to be guessed by nobody (the hash seed is shared: decision 0004)."""
    drawn = []
    for _ in range(3):
        session = begin()
        drawn.append(session.python(CHANCE)["stdout"].split())
        session.reset()
        drawn.append(session.python(CHANCE)["stdout"].split())
        branch = session.http.post(f"{session.path}/branch", json={}).json()["id"]
        told = session.http.post(f"/v1/sessions/{branch}/exec", json={"tool": "python", "code": CHANCE}).json()
        session.http.delete(f"/v1/sessions/{branch}")
        drawn.append(told["stdout"].split())
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == len(drawn), column


HONEST: Final = {  # 60
    "multiprocessing by spawn": "spawn",
    "multiprocessing by fork server": "forkserver",
    "multiprocessing by fork": "fork",
}


@pytest.mark.parametrize("name", HONEST)
def test_processes_of_every_kind_work(begin: Callable[..., Any], name: str) -> None:
    """60"""
    session = begin()
    code = (
        "import multiprocessing, concurrent.futures\ndef double(n): return 2 * n\n"
        f"how = multiprocessing.get_context('{HONEST[name]}')\n"
        "with concurrent.futures.ProcessPoolExecutor(2, mp_context=how) as pool:\n"
        "    first = list(pool.map(double, range(4)))\n"
        "with how.Pool(2) as pool: second = pool.map(double, range(4))\nfirst == second == [0, 2, 4, 6]"
    )
    result = session.python(code, timeout=60)
    assert result["error"] is None, result
    assert result["results"][0]["text/plain"] == "True"


def test_threads_loops_and_subprocesses_work(begin: Callable[..., Any]) -> None:
    """60"""
    session = begin()
    code = """
import asyncio, concurrent.futures, subprocess, threading
async def later(n):
    await asyncio.sleep(0)
    return n
both = await asyncio.gather(later(1), later(2))
with concurrent.futures.ThreadPoolExecutor(2) as pool: squares = list(pool.map(lambda n: n * n, range(4)))
done = subprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 3'], capture_output=True, text=True)
event = threading.Event(); threading.Thread(target=event.set).start()
[both, squares, done.stdout, done.stderr, done.returncode, event.wait(10)]
"""
    assert session.value(code) == "[[1, 2], [0, 1, 4, 9], 'out\\n', 'err\\n', 3, True]"


def _nap(session: Any) -> None:
    answer = session.http.post(f"{session.path}/sleep", json={"save": True})
    assert answer.status_code == 200, answer.text


def _wake(session: Any) -> dict[str, Any]:
    for _ in range(100):  # who asks while it falls asleep is told to ask again
        answer = session.call("execute_python", code="1 + 1", timeout=60)
        if answer.status_code == 200:
            break
        assert "again" in answer.json()["hint"], answer.text
    result: dict[str, Any] = answer.json()
    assert result["results"][0]["text/plain"] == "2"
    return result


EVIL: Final = """
import os
class Evil:
    def __reduce__(self):
        return (os.system, ("(grep -E '^(Cap|Seccomp:)' /proc/self/status; id -u) > /workspace/ran",))
evil, honest = Evil(), 41
"""
GARBAGE: Final = """
import os, stat
class Garbler:
    def __reduce__(self):
        for number in range(3, 4096):
            try:
                if stat.S_ISREG(os.fstat(number).st_mode) and os.lseek(number, 0, 1) >= 0:
                    os.pwrite(number, os.urandom(5000), 0); os.ftruncate(number, 1 << 20)
            except OSError: pass
        return (int, ())
first, garbler, last = 1, Garbler(), 2
"""
KEEPER: Final = """
import os, stat
class Keeper:
    def __reduce__(self):
        if os.fork() == 0:
            os.setsid()
            while True:
                for number in range(3, 300):
                    try:
                        if stat.S_ISREG(os.fstat(number).st_mode): os.pwrite(number, b'late', 0)
                    except OSError: pass
        return (int, ())
keeper = Keeper()
"""


def test_a_snapshot_that_runs_code_runs_it_inside_only(house: Any, begin: Callable[..., Any]) -> None:
    """61"""
    session = begin()
    session.python(EVIL)
    _nap(session)
    woken = _wake(session)
    assert any("honest" in note for note in woken["notes"])
    said = session.shell("cat ran")["stdout"].splitlines()
    assert said[-1] == session.shell("id -u")["stdout"].strip()
    assert [line.split()[-1] for line in said if line.startswith("CapEff")] == ["0" * 16]
    assert [line.split()[-1] for line in said if line.startswith("Seccomp:")] == ["2"]
    assert session.value("honest") == "41"
    assert not (house.plane.data / "ran").exists()


@pytest.mark.parametrize("name", ["garbage", "a process that keeps the file", "nothing but a claim"])
def test_a_snapshot_that_is_spoiled_costs_its_own_variables_at_most(begin: Callable[..., Any], name: str) -> None:
    """61: the loss is told in words, and the session goes on."""
    session, other = begin(), begin()
    other.python("kept = 5")
    _nap(other)
    code = {"garbage": GARBAGE, "a process that keeps the file": KEEPER}.get(
        name, "class Liar:\n    def __reduce__(self): return (eval, ('1/0',))\nliar = Liar()"
    )
    session.python(code)
    _nap(session)
    woken = _wake(session)
    assert any("came back" in note or "lost" in note for note in woken["notes"]), woken
    session.reset()
    assert session.value("len(dir()) < 20") == "True"
    _wake(other)
    assert other.value("kept") == "5"


def test_files_and_memory_of_a_session_are_gone_with_it(house: Any, begin: Callable[..., Any]) -> None:
    """13, 22, 62"""
    first = begin()
    first.python(
        "secret = 'left behind'\n"
        "for place in ('/tmp', '/dev/shm', '/workspace'): open(place + '/left', 'w').write(secret)"
    )
    first.delete()
    for _ in range(3):
        successor = begin()
        look = "import os\n[os.listdir(place) for place in ('/tmp', '/dev/shm', '/workspace')], 'secret' in globals()"
        assert successor.value(look) == "([[], [], []], False)"


def test_a_workspace_is_packed_without_what_leads_out_or_never_ends(begin: Callable[..., Any]) -> None:
    """1 to 3, 12, 45: links, pipes and hostile names are left out or made harmless when the host packs a workspace."""
    session = begin()
    code = r"""
import os, socket
os.makedirs('d/e'); open('d/e/good', 'w').write('good')
os.symlink('/etc/passwd', 'file'); os.symlink('/etc', 'directory'); os.symlink('..', 'up'); os.symlink('loop', 'loop')
os.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('socket')
os.link('d/e/good', 'twice')
for name in ('new\nline', '\x1b[2J', '-rf', 'CON', 'a\\b', '..\\..\\x', '\u202egnp.exe'): open(name, 'w').write('odd')
os.close(os.open(b'\xff\xfe', os.O_CREAT))
with open('sparse', 'wb') as hole: hole.truncate(20 << 20)
"""
    assert session.python(code)["error"] is None
    answer = session.http.get(f"{session.path}/archive")
    assert answer.status_code == 200
    packed = zipfile.ZipFile(io.BytesIO(answer.content))
    assert packed.testzip() is None
    names = packed.namelist()
    assert len(names) == len(set(names))
    assert not {"file", "directory", "up", "loop", "pipe", "socket"} & set(names)
    assert all(name.isprintable() and not name.startswith("/") and ".." not in name.split("/") for name in names)
    assert not any("\\" in name for name in names)
    assert packed.read("d/e/good") == packed.read("twice") == b"good"
    assert len(answer.content) < 1 << 20
