"""Attacks on the interpreter of a session, on its sleep and on what it shares with others (19, 51, 55, 58 to 62, 65).

An interpreter may always lie about its own results. What is looked at is what it has no say in: figures measured
outside of it, the next exec, a session after its reset, other sessions, and the directory of the plane.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from clawplane.cli.live_attacks import payloads
from clawplane.cli.live_attacks.items import LiveAttack, NotTried, listed, must, right
from clawplane.cli.live_attacks.plane import LiveSession, PrivatePlane, said

_PATIENCE_SECONDS: Final = 40.0
_CROWD: Final = 12
_POOLED: Final = 4
_LOST: Final = "The interpreter was replaced; its variables are lost."


def attacks() -> list[LiveAttack]:
    """Return the attacks of this module, in the order of their numbers."""
    rows = (
        (19, "patches the memory of its interpreter", "it ends; nobody else does", _patch_memory),
        (19, "forges the figures of its own result", "figures are measured outside of it", _forge_figures),
        (51, "works while its session sleeps", "it gets no processor until it is woken", _work_asleep),
        (51, "wakes a dozen sessions at once", "each wakes once, with what is its own", _wake_crowd),
        (55, "prints protocol frames, on every descriptor", "they are output, or end it", _send_frames),
        (58, "tampers with the interpreter", "the next exec is right", _tamper),
        (59, "tampers, and comes back", "a reset leaves nothing of it", _come_back),
        (60, "is an honest user", "everything works", _be_honest),
        (61, "tampers with a state snapshot", "it runs inside its own session only", _tamper_snapshot),
        (61, "spoils a state snapshot", "its own variables are lost, and it is told", _spoil_snapshot),
        (62, "contaminates the zygote", "no other session sees it", _contaminate),
        (65, "injects through environment values", "values are data, other names are refused", _inject),
        (65, "hooks programs through reserved variables", "hooks run locked in, or not at all", _hook),
    )
    return listed(rows)


async def _as_new(live: LiveSession, after: str) -> None:
    """Reset a session and see that nothing of before is left."""
    must(await live.reset() == 200, f"after {after} it could not be reset")
    await right(live, f"{after} and a reset")
    seen = await _settled(
        lambda: live.value(payloads.LOOK), payloads.AS_NEW
    )  # what was let go of is being ended beside us
    must(seen == payloads.AS_NEW, f"after {after} a reset leaves {seen}")


async def _settled(ask: Callable[[], Awaitable[object]], wanted: object) -> object:
    """Ask until the answer is the wanted one, or patience ends; return the last answer."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while (found := await ask()) != wanted and time.monotonic() < end:
        pass
    return found


async def _sleep(plane: PrivatePlane, live: LiveSession, *, save: bool) -> None:
    answer = await plane.http.post(f"{live.path}/sleep", json={"save": save})
    must(answer.status_code == 200, f"it could not be put to sleep: {answer.text[:200]}")


async def _woken(live: LiveSession, code: str) -> dict[str, Any]:
    """Execute code in a session that sleeps; who asks while it falls asleep or has no room is told to ask again."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while "status" not in (result := await live.python(code)):
        must("again" in str(result.get("hint")) and time.monotonic() < end, f"it does not wake: {result}")
    return result


def _shown(result: dict[str, Any]) -> str:
    return str((result.get("results") or [{}])[-1].get("text/plain"))


def _spent(name: str) -> dict[int, int]:
    """Return the processor time of each process of a name, in ticks of the kernel."""
    found = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                head, _, rest = (directory / "stat").read_text().rpartition(")")
                if head.partition("(")[2] == name:
                    found[int(directory.name)] = sum(map(int, rest.split()[11:13]))
    return found


async def _patch_memory(plane: PrivatePlane) -> None:
    live, other = await plane.begin(), await plane.begin()
    await other.python("kept = 1")
    code = """
heap = [line.split()[0] for line in open('/proc/self/maps') if '[heap]' in line][0]
start, end = (int(each, 16) for each in heap.split('-'))
with open('/proc/self/mem', 'r+b', buffering=0) as memory:
    memory.seek(start); memory.write(bytes(end - start))
"""
    result = await live.python(code, timeout=1)
    must(result.get("status") in ("exited", "timeout", "error"), f"it goes on as if nothing were: {said(result)}")
    must(await other.value("kept") == "1", "another session lost what it had")
    await _as_new(live, "zeros over its memory")


async def _forge_figures(plane: PrivatePlane) -> None:
    live = await plane.begin()
    code = f"""
import time
time.monotonic = time.time = time.perf_counter = lambda: 0
open('made', 'w').write('x'){payloads.SOCKETS}
x = bytearray(b'1' * (30 << 20)); end = os.times().user + 0.2
while os.times().user < end: pass
send(json.dumps(own | {{'usage': {{'wall_ms': 0}}, 'files': [], 'exec_id': 'x'}}).encode())
"""
    result = await live.python(code, timeout=20)
    usage = result.get("usage") or {}
    must(result.get("status") in ("ok", "exited") and result.get("exec_id") != "x", f"it is believed: {said(result)}")
    measured = usage.get("wall_ms", 0) >= 100 and usage.get("cpu_ms", 0) >= 100
    must(measured and usage.get("peak_memory", 0) >= 30 << 20, f"figures are its own: {usage}")
    must([each.get("path") for each in result.get("files") or []] == ["made"], "it hid the file that it made")
    await _as_new(live, "a forged result")


async def _send_frames(plane: PrivatePlane) -> None:
    live = await plane.begin()
    for number, stream in ((1, "stdout"), (2, "stderr")):
        framed = f"len({payloads.FRAME!r}).to_bytes(4, 'little') + {payloads.FRAME!r}.encode()"
        code = f"import os; os.write({number}, {framed}); 7"
        result = await live.python(code)
        must(payloads.FRAME in str(result.get(stream)), f"a frame on {stream} is not shown as output: {said(result)}")
        must((result.get("status"), _shown(result)) == ("ok", "7"), f"a frame on {stream} is obeyed: {said(result)}")
        await right(live, f"a frame on {stream}")
    result = await live.python(f"{payloads.SOCKETS}send({payloads.FRAME!r}.encode())\nraise ValueError('mine')")
    must("ValueError: mine" in str(result.get("error")), f"a frame of somebody else is believed: {said(result)}")
    await right(live, "a frame of somebody else")
    for code in ("[os.write(n, b'\\xfe' * 100_000) for n in sockets]", "send(b'[' * 100_000)", "send(b'{}')"):
        result = await live.python(payloads.SOCKETS + code, timeout=5)
        must(result.get("status") == "exited", f"{code} is put up with: {said(result)}")
        await right(live, code)
    result = await live.python(payloads.SOCKETS + "send(json.dumps(own).encode())\nwhile True: pass", timeout=2)
    must(result.get("status") in ("ok", "exited", "timeout"), f"done before it is: {said(result)}")
    await _as_new(live, "forged frames")


async def _tamper(plane: PrivatePlane) -> None:
    live = await plane.begin(undo=0)
    for name, code in {**payloads.DAMAGES, **payloads.ENDS}.items():
        result = await live.python(code, timeout=10)
        ended = result.get("status") == "exited" and _LOST in (result.get("notes") or [])
        held = ended if name in payloads.ENDS else result.get("status") in ("ok", "error")
        must(held, f"tampering with {name} is not told as what it is: {said(result)}")
        await right(live, f"tampering with {name}")
        must(await live.reset() == 200, f"after tampering with {name} it could not be reset")


async def _come_back(plane: PrivatePlane) -> None:
    live = await plane.begin()
    names = ("all builtins", "sys.modules", "signals", "audit hooks", "os._exit")
    for name, code in {
        "leftovers": payloads.LEFTOVERS,
        **{name: {**payloads.DAMAGES, **payloads.ENDS}[name] for name in names},
    }.items():
        await live.python("import os, sys\nmark = 1\nos.environ['MARK'] = '1'\nsys.modules['marked'] = os")
        must(await live.value("mark") == "1", "its mark is not there: this attack tries nothing")
        await live.python(code, timeout=10)
        await right(live, name)
        await _as_new(live, name)


async def _work_asleep(plane: PrivatePlane) -> None:
    name = f"spin{secrets.token_hex(4)}"
    ruler, live = await plane.begin(), await plane.begin(sleep_after=1, undo=0)
    code = f"""
import ctypes, os, threading
ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)
def spin():
    while True: pass
if os.fork() == 0: os.setsid(); spin()
def flee():
    try: os.fork() and os._exit(0)
    except OSError: pass
for _ in range(3):
    if os.fork() == 0:
        while True: flee()
threading.Thread(target=spin, daemon=True).start()
"""
    result = await live.python(code)
    must(result.get("status") == "ok", f"it could not begin to work: {said(result)}")
    if not _spent(name):
        raise NotTried("this host hides the processes of sessions, so nobody can see whether they work")

    async def state() -> object:
        return (await plane.http.get(live.path)).json().get("state")

    async def goes_on() -> object:
        await ruler.python(work)
        return sum(_spent(name).values()) > sum(before.values())

    work = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    must(await _settled(state, "sleeping") == "sleeping", "work in the background keeps it awake")
    await ruler.python(work)  # a fork that is under way may end after the word that it sleeps
    before = _spent(name)
    await ruler.python(work)
    after = _spent(name)
    must(len(before) >= 2 and after == before, f"it worked while it slept: {_grown(before, after)}")
    must(await state() == "sleeping", "it woke by itself")
    await _woken(live, "1 + 1")
    must(await _settled(goes_on, True), "what was frozen does not go on when the session wakes")


def _grown(before: dict[int, int], after: dict[int, int]) -> str:
    new, ticks = len(after.keys() - before.keys()), sum(after.values()) - sum(before.values())
    return f"{len(before)} processes became {len(after)}, {new} of them new, and used {ticks} ticks"


async def _wake_crowd(plane: PrivatePlane) -> None:
    lives = [await plane.begin(memory=128, sleep_after=0, undo=0) for _ in range(_CROWD)]
    for number, live in enumerate(lives):
        await live.python(f"own = {number}")
        await _sleep(plane, live, save=number % 4 == 0)
    told = [_shown(result) for result in await asyncio.gather(*(_woken(live, "own") for live in lives))]
    must(told == [str(number) for number in range(_CROWD)], f"sessions woke with {told}")
    states = [(await plane.http.get(live.path)).json() for live in lives]
    wanted = [2 if number % 4 == 0 else 1 for number in range(_CROWD)]
    must([each.get("lives") for each in states] == wanted, f"lives: {[each.get('lives') for each in states]}")


async def _be_honest(plane: PrivatePlane) -> None:
    live = await plane.begin()
    for how in ("fork", "spawn", "forkserver"):
        code = f"""
import concurrent.futures, multiprocessing
def double(n): return 2 * n
how = multiprocessing.get_context('{how}')
with concurrent.futures.ProcessPoolExecutor(2, mp_context=how) as pool: first = list(pool.map(double, range(4)))
first
"""
        result = await live.python(code, timeout=60)
        must(_shown(result) == "[0, 2, 4, 6]", f"multiprocessing by {how} does not work: {said(result)}")
    code = """
import asyncio, os, subprocess, tempfile, threading
async def later(n): return await asyncio.sleep(0, n)
both = await asyncio.gather(later(1), later(2))
with concurrent.futures.ThreadPoolExecutor(2) as pool: squares = list(pool.map(lambda n: n * n, range(4)))
done = subprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 3'], capture_output=True, text=True)
event = threading.Event(); threading.Thread(target=event.set).start()
os.makedirs('a/b'); open('a/b/c', 'w').write('c'); os.rename('a/b/c', 'd')
with tempfile.TemporaryFile() as file: file.write(b'x' * 1000); size = file.tell()
[both, squares, done.stdout, done.stderr, done.returncode, event.wait(10), open('d').read(), size]
"""
    found = await live.value(code)
    wanted = "[[1, 2], [0, 1, 4, 9], 'out\\n', 'err\\n', 3, True, 'c', 1000]"
    must(found == wanted, f"threads, loops, subprocesses and files give {found}")


async def _tamper_snapshot(plane: PrivatePlane) -> None:
    live, other = await plane.begin(), await plane.begin()
    out = plane.directory / "reached"
    code = f"""
import os
class Evil:
    def __reduce__(self):
        return (os.system, ({f"{payloads.WHERE} > /workspace/ran; {payloads.WHERE} > {out}"!r},))
evil, honest = Evil(), 41
"""
    await live.python(code)
    await other.python("honest = 42")
    for each in (live, other):
        await _sleep(plane, each, save=True)
    answer = await plane.stranger.post(f"{live.path}/exec", json={"tool": "python", "code": "honest"})
    must(answer.status_code == 404, f"another tenant woke it: {answer.text[:200]}")
    found = [_shown(await _woken(each, "honest")) for each in (other, live)]
    must(found == ["42", "41"], f"sessions woke with the variables of others: {found}")
    must(await other.value("'evil' in globals() or __import__('os').path.exists('ran')") == "False", "it is in another")
    must(not out.exists(), "what a snapshot ran reached a directory of the host")
    await _locked_in(live, "ran")


def _own_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


async def _locked_in(live: LiveSession, file: str) -> None:
    """See that every process that left a word in a file of the workspace stood inside, and without privileges."""
    inside = (await live.shell("readlink /proc/self/ns/pid"))["stdout"].strip()
    lines = {" ".join(line.split()) for line in (await live.shell(f"cat {file}"))["stdout"].splitlines()}
    must(lines and inside, "nothing ran at all: this attack tries nothing")
    must(inside != _own_namespace(), "the session has no namespace of its own")
    wanted = {f"CapEff: {'0' * 16}", "NoNewPrivs: 1", "Seccomp: 2", inside}
    must(lines == wanted, f"it ran elsewhere or with privileges: {sorted(lines)}")


async def _spoil_snapshot(plane: PrivatePlane) -> None:
    live = await plane.begin()
    code = """
import os, stat
class Garbler:
    def __reduce__(self):
        for number in range(3, 4096):
            try:
                if stat.S_ISREG(os.fstat(number).st_mode) and os.pwrite(number, os.urandom(5000), 0):
                    os.close(os.open('/workspace/spoiled', os.O_CREAT))
            except OSError: pass
        return (int, ())
first, garbler, last = 1, Garbler(), 2
"""
    await live.python(code)
    await _sleep(plane, live, save=True)
    result = await _woken(live, "1 + 1")
    told = any("came back" in note or "lost" in note for note in result.get("notes") or [])
    must(await live.value("__import__('os').path.exists('spoiled')") == "True", "it found no snapshot to spoil")
    must(_shown(result) == "2" and told, f"what was lost is not told: {said(result)}")
    await _as_new(live, "a spoiled snapshot")


async def _contaminate(plane: PrivatePlane) -> None:
    before, live = await plane.begin(), await plane.begin()
    result = await live.python(payloads.PATCHES)
    must(result.get("stdout") == "patched patched patched /tmp\n", f"it patched nothing: {said(result)}")
    others = [before, *[await plane.begin() for _ in range(_POOLED + 1)]]  # the last was forked after the attack
    found = {await each.value(payloads.UNTOUCHED) for each in others}
    must(found == {payloads.AS_EVER}, f"another session sees it: {found - {payloads.AS_EVER}}")
    drawn = [str((await each.python(payloads.CHANCE)).get("stdout")).split() for each in others]
    columns = list(zip(*drawn, strict=True))
    must(len(columns) == 6 and all(len(set(each)) == len(drawn) for each in columns), f"two drew the same: {columns}")
    await live.reset()
    await live.shell("rm /tmp/patched")  # files stay
    own = await live.value(payloads.UNTOUCHED)
    must(own == payloads.AS_EVER, f"its own next interpreter sees it: {own}")


async def _inject(plane: PrivatePlane) -> None:
    hostile = [*"'\"\n\\=\u202e", "$(touch pwned)", "`touch pwned`", "'; touch pwned; '", "x" * 30_000]
    values = {f"V{number}": value for number, value in enumerate(hostile)}
    once = {"W0": "$(touch pwned)'\"\n; touch pwned"}
    live = await plane.begin(environment=values)
    look = f"import json, os; print(json.dumps({{n: os.environ.get(n) for n in {[*values, *once]}}}))".replace("'", '"')
    for tool, code in (("python", look), ("shell", f"python3 -c '{look}'")):
        result = await live.execute(tool, code, environment=once, raw=True)
        must(json.loads(result["stdout"]) == values | once, f"values arrive changed in {tool}: {said(result)}")
    must("pwned" not in (await live.shell("ls"))["stdout"], "a value was executed")
    asks = {"/v1/sessions": {"profile": "bare"}, f"{live.path}/exec": {"tool": "shell", "code": "env"}}
    wrong: list[dict[str, Any]] = [{"A=B": "x"}, {"A B": "x"}, {"$(id)": "x"}, {"": "x"}, {"A\0B": "x"}, {"A": "x\0y"}]
    for environment in (*wrong, {"A": 5}, {"A": ["x"]}):
        for path, more in asks.items():
            answer = await plane.http.post(path, json={**more, "environment": environment})
            told = str(answer.json().get("error")).startswith("environment")
            must(answer.status_code == 422 and told, f"{environment} is not refused by name: {answer.text[:200]}")


async def _hook(plane: PrivatePlane) -> None:
    out = plane.directory / "hooked"
    command = f"{payloads.WHERE} >> /workspace/hooked; {payloads.WHERE} > {out}"
    environment = {"PATH": "/workspace:/usr/local/bin:/usr/bin:/bin", "PYTHONSTARTUP": "/workspace/hook.py"}
    environment |= dict.fromkeys(("BASH_ENV", "ENV"), "/workspace/hook.sh") | {"LD_PRELOAD": "/workspace/evil.so"}
    environment |= dict.fromkeys(("PYTHONPATH", "LD_LIBRARY_PATH"), "/workspace")
    live = await plane.begin(environment=environment)
    shell = f"#!/bin/sh\nunset ENV BASH_ENV\nPATH=/usr/bin:/bin\n{command}\n"
    files = {"hook.sh": f"PATH=/usr/bin:/bin\n{command}\n", "ls": shell, "init": shell, "newuidmap": shell}
    files |= dict.fromkeys(("hook.py", "sitecustomize.py", "usercustomize.py"), f"import os; os.system({command!r})\n")
    for path, content in files.items():
        asked = {"session_id": live.id, "path": path, "content": content}
        answer = await plane.http.post("/v1/tools/workspace_write", json=asked)
        must(answer.status_code == 200, f"a hook could not be written: {answer.text[:200]}")
    await live.shell("chmod +x ls init newuidmap")
    must(await live.reset() == 200, "it could not be reset")
    must(await live.value("1 + 1") == "2", "hooks keep it from its work")
    result = await live.shell("ls; python3 -c 1; bash -c true; echo $((1 + 1))")
    must(str(result.get("stdout")).endswith("2\n"), f"hooks keep it from its work: {said(result)}")
    must(not out.exists(), "a hook reached a directory of the host")
    await _locked_in(live, "hooked")
