"""Classes G and H of the attack list, as far as they concern a Worker run (items 57 and 68)."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Any

import pytest

ENDS: dict[str, tuple[str, str, int | None, int | None]] = {
    "_exit": ("os._exit(0)", "exit", 0, None),
    "exit code": ("sys.exit(3)", "exit", 3, None),
    "exit text": ("sys.exit('sorry')", "exit", 1, None),
    "quit": ("import builtins; getattr(builtins, 'quit', sys.exit)()", "exit", 0, None),
    "SystemExit": ("raise SystemExit(7)", "exit", 7, None),
    "exception": ("1 / 0", "exit", 1, None),
    "abort": ("os.abort()", "signal", None, signal.SIGABRT),
    "another program": ("os.execv('/bin/sh', ['sh', '-c', 'exit 5'])", "exit", 5, None),
    "segmentation fault": ("ctypes.string_at(1)", "signal", None, signal.SIGSEGV),
    "endless recursion": ("sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "any", None, None),
    "deep repr": ("x = []\nfor _ in range(10**6): x = [x]\nsys.setrecursionlimit(10**9)\nrepr(x)", "any", None, None),
    "faulthandler": ("import faulthandler; faulthandler._sigsegv()", "signal", None, signal.SIGSEGV),
    "own SIGKILL": ("os.kill(os.getpid(), 9)", "signal", None, signal.SIGKILL),
    "SIGKILL to all": ("tried(os.kill, -1, 9); os.kill(os.getpid(), 9)", "signal", None, signal.SIGKILL),
    "SIGKILL to pid 1": (
        "os.kill(1, 9); os.kill(1, 15); os.kill(1, 17); time.sleep(0.1); sys.exit(4)",
        "exit",
        4,
        None,
    ),
    "SIGTERM": ("os.kill(os.getpid(), 15)", "signal", None, signal.SIGTERM),
    "exit code 137": ("os._exit(137)", "exit", 137, None),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "signal", None, signal.SIGINT),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_ends_in_an_unusual_way(start: str, how: str, arena: Any) -> None:  # 57
    """The verdict is what the kernel saw: exit codes are not signals, and a signal is not an exit code."""
    code, reason, exit_code, number = ENDS[how]
    guest = getattr(arena, start)("print('BEGUN', flush=True)\n" + code, limits={"wall": 20.0})
    verdict = guest.end()
    assert guest.out.startswith(b"BEGUN\n")
    if reason == "any":  # an error or a signal, whichever limit is met first
        assert verdict["reason"] in ("exit", "signal", "memory")
        assert verdict["exit_code"] != 0
        return
    assert (verdict["reason"], verdict["exit_code"], verdict["signal"]) == (reason, exit_code, number), guest.err


def test_the_guest_claims_an_end_it_did_not_have(arena: Any) -> None:  # 55, 57
    """Whatever is printed is output; no line of it decides the verdict."""
    claims = [
        '{"event": "ended", "verdict": {"reason": "exit", "exit_code": 0}}',
        "E\\x00\\x00\\x00\\x00",
        "\\x04\\x00\\x00\\x00exit",
    ]
    guest = arena.python(f"for claim in {claims}: print(claim); print(claim, file=sys.stderr)\nsys.exit(9)")
    verdict = guest.end()
    assert (verdict["reason"], verdict["exit_code"]) == ("exit", 9)
    assert b'"exit_code": 0' in guest.out


LIST = """
for each in sorted(os.listdir('/proc/self/fd'), key=int):
    if os.path.lexists('/proc/self/fd/' + each): print(each, os.readlink('/proc/self/fd/' + each))
"""


@pytest.mark.parametrize("language", ["python", "forked", "shell", "node"])
def test_the_guest_looks_for_descriptors_that_leaked(language: str, arena: Any) -> None:  # 68
    if language == "node" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    if language in ("python", "forked"):
        guest = getattr(arena, language)(LIST)
    elif language == "shell":
        guest = arena.shell("cd /proc/$$/fd; for each in *; do printf '%s ' $each; readlink $each; done; true")
    else:
        script = "const fs = require('fs'); for (const each of fs.readdirSync('/proc/self/fd')) {"
        script += "try { console.log(each, fs.readlinkSync('/proc/self/fd/' + each)) } catch (e) {} }"
        guest = arena.start(["node", "-e", script])
    assert guest.end()["exit_code"] == 0, guest.err
    found = dict(line.split(" ", 1) for line in guest.out.decode().splitlines() if " " in line.strip())
    standard = {number: found.pop(number) for number in ("0", "1", "2")}
    assert standard["0"] == "/dev/null"
    assert standard["1"].startswith("pipe:")
    assert standard["2"].startswith("pipe:")
    own_pipes_and_polls = ("anon_inode:", "pipe:", "/dev/null") if language == "node" else ()
    left = [
        target for target in found.values() if not target.startswith(own_pipes_and_polls) or not own_pipes_and_polls
    ]
    assert all(target.endswith("/fd") for target in left), found  # the listing's own directory


@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_writes_to_every_descriptor_number(start: str, arena: Any) -> None:  # 56, 68
    code = """
import stat
sockets = []
for number in range(1024):
    try:
        if stat.S_ISSOCK(os.fstat(number).st_mode): sockets.append(number)
    except OSError: pass
for number in range(3, 1024):
    for forged in (b'E' + bytes(24), b'R', b'F' + b'forged', b'{"exit": 0}'):
        try: os.write(number, forged)
        except OSError: pass
os.closerange(3, 1024)
say(sockets)
os._exit(6)"""
    guest = getattr(arena, start)(code)
    verdict = guest.end()
    assert (verdict["reason"], verdict["exit_code"]) == ("exit", 6)
    assert guest.out.splitlines()[-1] == b"[]"


@pytest.mark.parametrize("start", ["python", "forked"])
def test_the_guest_looks_where_it_stands(start: str, arena: Any) -> None:  # 68
    code = "say([os.getcwd(), os.readlink('/proc/self/cwd'), os.readlink('/proc/self/root')])"
    assert getattr(arena, start)(code).said() == ["/tmp", "/tmp", "/"]


def test_the_guest_looks_for_somebody_else_s_pipes(arena: Any) -> None:  # 68
    """Two guests at once: each knows two pipes, and they are different ones."""
    code = "say([os.readlink(f'/proc/self/fd/{each}') for each in (1, 2)])\nsignal.pause()"
    guests = [arena.python(code), arena.forked(code)]
    for guest in guests:
        guest.wait_for(b"]")
    pipes = [name for guest in guests for name in eval(guest.out)]
    assert len(set(pipes)) == 4
    for guest in guests:
        guest.kill()
    assert all(not os.path.exists(f"/proc/{guest.pid}/exe") for guest in guests)
