"""After every attack the session says honestly what happened, and is right again: at the next exec, or after a reset.

Items 38 to 40, 42, 44, 46 to 49, 53 and 55 to 59 of the attack list. What an attack claims through its own interpreter
(results, its own "ok") is its own; status by limits, time and deaths are seen from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest
from interpreter_attacks import DAMAGES, ENDS, FRAME, PRINTED

SECONDS: Final = 0.6
"""The time limit of an attack that never ends by itself."""
ENOUGH: Final = 30.0
"""The time limit of all others, which none of them needs."""
FEW: Final = 30
SMALL: Final = 160
SOCKETS: Final = """
import os, stat
sockets = []
for number in range(3, 4096):
    try:
        if stat.S_ISSOCK(os.fstat(number).st_mode): sockets.append(number)
    except OSError: pass
"""
FORGE: Final = (
    SOCKETS
    + """
import json, sys
frame = sys._getframe()
while 'nonce' not in frame.f_locals: frame = frame.f_back
number, nonce = frame.f_locals['number'], frame.f_locals['nonce']
def forge(**members):
    body = json.dumps({'id': number, 'nonce': nonce, **members}).encode()
    for each in sockets: os.write(each, len(body).to_bytes(4, 'little') + body)
done = dict(op='done', status='ok', error=None, exit_code=None, count=77, threads=0, notes=['well done'], broken=False)
"""
)
CLEAN: Final = {
    "status": "ok",
    "error": None,
    "stdout": "",
    "stderr": "",
    "notes": [],
    "results": [{"text/plain": "2", "_main": True}],
}


@dataclass(frozen=True)
class Attack:
    """Code, and what the session may say of it: statuses, and a word of the error when it has to be there."""

    code: str
    says: str = "ok"
    error: str = ""
    tool: str = "python"
    undo: int = 5
    timeout: float = ENOUGH


def _endless(code: str, **more: Any) -> Attack:
    return Attack(code, says="timeout", error="Error: timeout exceeded", timeout=SECONDS, **more)


FLOODS: Final = {  # 38
    "forks": Attack("import os\nwhile True: os.fork()", "error timeout", timeout=10),
    "forks that wait": Attack(
        "import os, signal\nwhile True:\n    if os.fork() == 0: signal.pause()", "error", "temporarily unavailable"
    ),
    "forks that go on": _endless("import os\nwhile True:\n    try: os.fork()\n    except BaseException: pass"),
    "fork bomb of the shell": Attack(":(){ :|:& };:; wait", "ok error timeout", tool="shell", timeout=SECONDS),
    "fork bomb left behind": Attack(":(){ :|:& };:", "ok error", tool="shell"),
    "programs of node": _endless(
        "const c = require('child_process'); for (;;) {"
        "c.spawn('sleep', ['99'], {detached: true, stdio: 'ignore'}).on('error', () => {}).unref() }",
        tool="node",
    ),
    "threads": Attack(
        "import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "error memory",
    ),
    "zombies": Attack("import os\nfor _ in range(15):\n    if os.fork() == 0: os._exit(0)"),
    "orphans": Attack(
        "import os\nfor _ in range(50):\n    child = os.fork()\n    if child == 0:\n        os.fork(); os._exit(0)\n"
        "    os.waitpid(child, 0)",
    ),
}
HOGS: Final = {  # 39, 41
    "bytes": Attack("x = bytearray()\nwhile True: x += bytes(1 << 20)", "memory error", timeout=10),
    "bytes of children": Attack(
        "import os, signal\nfor _ in range(9):\n    if os.fork() == 0:\n        x = bytearray(b'1' * (40 << 20))\n"
        "        signal.pause()\nx = bytearray(b'1' * (40 << 20)); signal.pause()",
        "memory timeout",
        timeout=SECONDS,
    ),
    "text of the shell": Attack("x=1; while :; do x=$x$x; done", "memory error timeout", tool="shell", timeout=10),
    "buffers of node": Attack(
        "const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))", "memory error", tool="node", timeout=10
    ),
    "scratch space": Attack(
        "for n in range(99):\n    with open(f'/tmp/{n}', 'wb', buffering=0) as file: file.write(bytes(16 << 20))",
        "memory error",
        timeout=10,
    ),
    "shared memory": Attack(
        "for n in range(99):\n    with open(f'/dev/shm/{n}', 'wb', buffering=0) as file: file.write(bytes(16 << 20))",
        "memory error",
        timeout=10,
    ),
    "nameless files": Attack(
        "import os\nheld = []\nfor n in range(99):\n    held.append(os.memfd_create('x'))\n"
        "    os.write(held[-1], bytes(16 << 20))",
        "memory error",
        timeout=10,
    ),
    "the workspace": Attack(
        "for n in range(99):\n    with open(str(n), 'wb') as file: file.write(bytes(16 << 20))",
        "ok disk error",
        timeout=10,
    ),
    "recursion": Attack(
        "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "memory exited error", timeout=10
    ),
    "recursion that is bounded": Attack("def f(): f()\nf()", "error", "RecursionError"),
}
STUBBORN: Final = {  # 40, 46, 47
    "spins": _endless("while True: pass"),
    "spins in C": _endless("10**10**8"),
    "spins in a pattern": _endless("import re; re.match(r'(a+)+$', 'a' * 64 + 'b')"),
    "refuses": _endless(
        "import signal\nfor n in signal.valid_signals():\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "refuses in the shell": _endless("trap '' TERM INT HUP QUIT ALRM; while :; do sleep 1; done", tool="shell"),
    "refuses in node": _endless(
        "for (const s of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(s, () => {}); for (;;);", tool="node"
    ),
    "waits for a pipe": _endless("import os\nos.mkfifo('/tmp/f'); open('/tmp/f')"),
    "waits for a pipe in the shell": _endless("mkfifo /tmp/g; cat /tmp/g", tool="shell"),
    "waits for its own lock": _endless(
        "import fcntl\na = open('/tmp/l', 'w'); fcntl.flock(a, 2)\nb = open('/tmp/l', 'w'); fcntl.flock(b, 2)"
    ),
    "waits while it is shown": _endless("class A:\n    def __repr__(self): __import__('time').sleep(99)\nA()"),
    "stops itself": _endless("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    "stops everything": Attack("kill -STOP -1", tool="shell", undo=0),
}
KILLS: Final = {  # 57
    "all others": Attack("import os\nos.kill(-1, 9)"),
    "each that it sees": Attack(
        "import os\nfor pid in sorted(map(int, filter(str.isdigit, os.listdir('/proc'))), reverse=True):\n"
        "    if pid != os.getpid(): os.kill(pid, 9)"
    ),
    "all from the shell": Attack("kill -9 -1", tool="shell"),
    "all from node": Attack("process.kill(-1, 'SIGKILL')", tool="node"),
    "the first": Attack("import os\nfor number in (1, 2, 9, 15, 17): os.kill(1, number)"),
    "a core dumped": Attack("import ctypes; ctypes.string_at(0)", "exited", "SIGSEGV"),  # 53
    "its own None": Attack("import ctypes; ctypes.memset(id(None), 0, 16)", "exited", "killed by SIG"),
    "its own memory": Attack(
        "import ctypes\nunmap = ctypes.CDLL(None).munmap\nunmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]\n"
        "for line in open('/proc/self/maps'):\n    start, end = (int(n, 16) for n in line.split()[0].split('-'))\n"
        "    unmap(start, end - start)",
        "exited",
        "killed by SIG",
    ),
    "its processor time": Attack(
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (0, 0))\nwhile True: pass", "exited", "killed by SIG"
    ),
    "SystemExit": Attack("import sys; sys.exit(3)", "error", "SystemExit: 3"),
    "an end that is claimed": Attack("raise SystemExit('all is well')", "error"),
}
CHANNEL: Final = {  # 55, 56
    "noise": Attack(SOCKETS + "for n in sockets: os.write(n, b'\\xfe' * 100_000)", "exited", "breaks the protocol"),
    "a frame too large": Attack(
        SOCKETS + "for n in sockets: os.write(n, b'\\xff\\xff\\xff\\x7f' + bytes(99))", "exited", "breaks the protocol"
    ),
    "zeros": Attack(SOCKETS + "for n in sockets: os.write(n, bytes(4000))", "exited", "breaks the protocol"),
    "half a frame": _endless(
        SOCKETS + "for n in sockets: os.write(n, (99).to_bytes(4, 'little') + b'{\"op\":')\nwhile True: pass"
    ),
    "a frame of somebody else": Attack(
        SOCKETS + f"body = {FRAME!r}.encode()\n"
        "for n in sockets: os.write(n, len(body).to_bytes(4, 'little') + body)\nraise ValueError('mine')",
        "error",
        "ValueError: mine",
    ),
    "a frame that is deep": Attack(
        SOCKETS + "body = b'[' * 100_000\nfor n in sockets: os.write(n, len(body).to_bytes(4, 'little') + body)",
        "exited",
    ),
    "done before it is": Attack(FORGE + "forge(**done)\nwhile True: pass"),
    "done with an error": Attack(
        FORGE + "forge(**done | {'error': {'name': 'E', 'value': 'x' * 99_999, 'traceback': ['y' * 99_999]}})", "error"
    ),
    "done of a wrong shape": Attack(FORGE + "forge(op='done', status=7, notes={})", "exited", "breaks the protocol"),
    "what is not asked for": Attack(
        FORGE + "forge(op='saved', names=[], lost=[])\nforge(op='named', names=[['a', 'b']])"
    ),
    "done again and again": Attack(FORGE + "for _ in range(5000): forge(**done)"),
    "results of the next one": Attack(
        FORGE + "number = str(int(number) + 1)\nforge(**done)\n"
        "forge(op='shown', kind='result', data={'text/plain': '3'}, metadata={}, display_id='')"
    ),
    "a socket that does not wait": Attack(SOCKETS + "for n in sockets: os.set_blocking(n, False)"),
    "a socket that is passed on": _endless(
        SOCKETS + "for n in sockets: os.set_inheritable(n, True)\n"
        "os.execv('/bin/sh', ['sh', '-c', 'while :; do :; done'])"
    ),
    "every descriptor": Attack("import os; os.closerange(0, 65536)", "exited"),
}
SURROUNDINGS: Final = {
    "no files": Attack("import resource as r\nr.setrlimit(r.RLIMIT_NOFILE, (0, 0))"),
    "no memory": Attack("import resource as r\nr.setrlimit(r.RLIMIT_AS, (1 << 20, 1 << 20))"),
    "no limits but zero": Attack(
        "import resource as r\nfor n in range(16):\n    try: r.setrlimit(n, (0, 0))\n"
        "    except (OSError, ValueError): pass",
        "ok exited",  # as soon as it has used a second of processor time
    ),
    "the last of the processor": Attack(
        "import os\nos.nice(19); os.sched_setaffinity(0, [0])\n"
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
    ),
    "a huge environment": Attack("import os\nfor n in range(2000): os.environ[f'LEFT{n}'] = 'x' * 10_000", timeout=10),
    "no environment": Attack("import os; os.environ.clear()"),
    "no workspace": Attack(
        "import os, shutil\nos.makedirs('a/b'); os.chdir('a/b'); shutil.rmtree('/workspace', ignore_errors=True)"
    ),
    "a closed workspace": Attack("import os\nos.makedirs('/workspace/a', 0); os.chmod('/workspace', 0)"),
    "a workspace closed in the shell": Attack("chmod 0 /workspace", tool="shell"),
    "another place": Attack("import os; os.chdir('/proc/self/fd')"),
    "another name and parent": Attack(
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "libc.prctl(1, 9); libc.prctl(36, 1); libc.prctl(4, 0); libc.prctl(15, b'init')"
    ),
}
LEFTOVERS: Final = {  # 48
    "a daemon": Attack(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        "    while True: time.sleep(1)"
    ),
    "a daemon of the shell": Attack("(setsid nohup sh -c 'while :; do sleep 1; done' &); echo up", tool="shell"),
    "a program that prints": Attack(
        "import subprocess\nleft = subprocess.Popen(['sh', '-c', 'while :; do echo left; sleep 0.01; done'])"
    ),
    "a thread that prints": Attack(
        "import threading\ndef left():\n    while True: print('left')\n"
        "threading.Thread(target=left, daemon=True).start()"
    ),
    "threads that stay": Attack(
        "import threading\nfor _ in range(10): threading.Thread(target=threading.Event().wait).start()"
    ),
    "a trace": Attack("import sys, threading\nsys.settrace(lambda *a: None); threading.settrace(lambda *a: None)"),
}
SHOWS: Final = {  # 42, 44
    "a line without end": Attack("import sys\nfor _ in range(50): sys.stdout.write('x' * 1_000_000)"),
    "many results": Attack("for number in range(100_000): display(number)"),
    "a picture of 30 MB": Attack(
        "class A:\n    def _repr_png_(self): return b'\\x89PNG' + bytes(30 << 20)\nA()", timeout=20
    ),
    "a text of 40 MB": Attack("'x' * (40 << 20)"),
    "markup that recurses": Attack("class A:\n    def _repr_html_(self): return self._repr_html_()\nA()"),
    "markup that raises": Attack("class A:\n    def _repr_html_(self): raise SystemExit(9)\nA()"),
    "markup that sleeps": _endless("class A:\n    def _repr_html_(self): __import__('time').sleep(99)\nA()"),
}
ATTACKS: Final = {
    f"{group}: {name}": attack
    for group, attacks in {
        "floods": FLOODS,
        "hogs": HOGS,
        "stubborn": STUBBORN,
        "kills": KILLS,
        "channel": CHANNEL,
        "surroundings": SURROUNDINGS,
        "leftovers": LEFTOVERS,
        "shows": SHOWS,
    }.items()
    for name, attack in attacks.items()
}
GOES_ON_PRINTING: Final = {"leftovers: a program that prints", "leftovers: a thread that prints", "floods: forks"}
"""What these print into the next exec is theirs; it ends with the reset."""
HOLDS_ON: Final = {"hogs: bytes", "hogs: bytes of children"}
"""What these have is the session's own until the reset: without cgroups a copy of it may be too much."""
NOT_BEFORE_A_RESET: Final = {
    "stubborn: stops everything",
    "channel: results of the next one",
    "channel: done before it is",
}
LOOK: Final = """
import os, sys, threading, signal
def started(pid):
    try: return int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[19])
    except OSError: return None
own = started(os.getpid())
old = [pid for pid in os.listdir('/proc') if pid.isdigit() and pid != '1' and (started(pid) or own) < own]
(len(old), 'mark' in globals(), os.environ.get('MARK'), 'marked' in sys.modules, threading.active_count(),
 sys.gettrace(), signal.getsignal(signal.SIGTERM), os.getcwd())
"""
AS_NEW: Final = "(0, False, None, False, 1, None, <Handlers.SIG_DFL: 0>, '/workspace')"


def clean(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a result says of the exec itself."""
    return {name: result[name] for name in CLEAN}


def as_new(session: Any) -> None:
    """Reset a session, and see that it is as if nothing had been."""
    session.reset()
    assert clean(session.python("1+1")) == CLEAN
    for _ in range(200):  # what was let go of is being ended beside us
        if (seen := session.value(LOOK)) == AS_NEW:
            break
    assert seen == AS_NEW
    assert session.shell("echo $((1+1))")["stdout"] == "2\n"


@pytest.mark.parametrize("name", ATTACKS)
def test_after_an_attack_the_session_is_right_again(begin: Callable[..., Any], name: str) -> None:
    """38 to 42, 44, 46 to 49, 53, 55 to 57, and 59 for each of them."""
    attack = ATTACKS[name]
    session = begin(processes=FEW, memory=SMALL, disk=64, undo=attack.undo)
    session.python("import os, sys\nmark = 1\nos.environ['MARK'] = '1'\nsys.modules['marked'] = os")
    result = session.run(attack.tool, attack.code, timeout=attack.timeout)
    assert result["status"] in attack.says.split(), result
    assert (result["error"] is None) == (result["status"] == "ok"), result
    assert attack.error in (result["error"] or ""), result
    assert result["usage"]["wall_ms"] > 0
    if name not in NOT_BEFORE_A_RESET:
        following = session.python("1+1")
        wanted = CLEAN
        if name in HOLDS_ON and following["status"] == "memory":
            wanted = CLEAN | {"status": "memory", "error": "Error: memory limit exceeded", "results": []}
        if name in GOES_ON_PRINTING:
            wanted = CLEAN | {"stdout": following["stdout"], "stderr": following["stderr"]}
        assert clean(following) | {"notes": []} == wanted
        lost = [note for note in following["notes"] if "variables are lost" in note]
        told_before = any("variables are lost" in note for note in result["notes"])
        later = session.python("'mark' in globals()")
        lost += [note for note in later["notes"] if "variables are lost" in note]  # what still hogs may cost it later
        kept = later["results"][-1]["text/plain"] == "True"
        assert kept == (not lost and not told_before), "a loss is told, and nothing else is"
    as_new(session)


@pytest.mark.parametrize("name", [*PRINTED, *ENDS, *DAMAGES])
def test_after_tampering_the_next_exec_is_right_and_a_reset_leaves_nothing_of_it(
    begin: Callable[..., Any], name: str
) -> None:
    """55, 57, 58, and 59 for each of them."""
    session = begin(undo=0 if name == "gc callbacks" else 5)  # what its callbacks print would hold up a copy
    session.python("import os, sys\nmark = 1\nos.environ['MARK'] = '1'\nsys.modules['marked'] = os")
    result = session.python({**PRINTED, **ENDS, **DAMAGES}[name], timeout=20)
    if name in ENDS:
        assert (result["status"], result["notes"]) == (
            "exited",
            ["The interpreter was replaced; its variables are lost."],
        )
    else:
        assert result["status"] in ("ok", "error")
        assert not any("replaced" in note for note in result["notes"])
    following = session.python("1+1")
    own_noise = {"stderr": following["stderr"]} if name in ("gc callbacks", "fork hooks") else {}
    assert clean(following) == CLEAN | own_noise
    as_new(session)


def test_what_is_forged_is_the_interpreters_word_and_nothing_else(begin: Callable[..., Any]) -> None:
    """19, 56: time, memory, files and connections are measured outside, whatever the interpreter says."""
    session = begin()
    code = (
        f"import time\ntime.monotonic = time.time = time.perf_counter = lambda: 0\nopen('made', 'w').write('x'){FORGE}"
    )
    code += "x = bytearray(b'1' * (30 << 20))\nend = os.times().user + 0.2\nwhile os.times().user < end: pass\n"
    result = session.python(code + "forge(**done | {'usage': {'wall_ms': 0}, 'files': [], 'exec_id': 'x'})")
    assert result["status"] in ("ok", "exited")
    assert result["exec_id"] != "x"
    assert result["usage"]["wall_ms"] >= 100
    assert result["usage"]["cpu_ms"] >= 100
    assert result["usage"]["peak_memory"] >= 30 << 20
    assert [change["path"] for change in result["files"]] == ["made"]
    as_new(session)


def test_patching_the_memory_of_the_interpreter_changes_its_own_word_only(begin: Callable[..., Any]) -> None:
    """19: /proc/self/mem may be written to; the interpreter dies of it or lies for itself, and is replaced."""
    session, other = begin(), begin()
    other.python("kept = 1")
    code = """
heap = [line.split()[0] for line in open('/proc/self/maps') if '[heap]' in line][0]
start, end = (int(each, 16) for each in heap.split('-'))
with open('/proc/self/mem', 'r+b', buffering=0) as memory:
    memory.seek(start); memory.write(bytes(end - start))
"""
    result = session.python(code, timeout=SECONDS)
    assert result["status"] in ("exited", "timeout", "error"), result
    assert other.value("kept") == "1"
    as_new(session)
