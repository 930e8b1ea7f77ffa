"""Class C of the attack list: system calls and privilege (items 20 to 31)."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.syscall_table import CALLS

HERE = platform.machine()
NUMBERS = {call.name: getattr(call, HERE) for call in CALLS if getattr(call, HERE, None) is not None}


def calls(*names_and_arguments: tuple[str, str]) -> str:
    """Return code that says a list of errors, one per (call, arguments)."""
    parts = [
        f"system_call({NUMBERS[name]}{', ' if arguments else ''}{arguments})" for name, arguments in names_and_arguments
    ]
    return f"say([{', '.join(parts)}])"


@pytest.mark.parametrize("request_number", [0, 16, 0x4206], ids=["traceme", "attach", "seize"])
def test_the_guest_tries_to_trace_processes(request_number: int, arena: Any) -> None:  # 20
    code = f"""
child = os.fork()
if child == 0: signal.pause()
answers = [system_call({NUMBERS["ptrace"]}, {request_number}, pid, 0, 0) for pid in (1, child, os.getppid())]
os.kill(child, 9); say(answers)"""
    assert arena.ask(code) == ["EPERM"] * 3


def test_the_guest_tries_to_read_and_write_memory_of_others(arena: Any) -> None:  # 21
    code = f"""
buffer = ctypes.create_string_buffer(64)
vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 64)
say([system_call(number, pid, vector, 1, vector, 1, 0)
     for number in ({NUMBERS["process_vm_readv"]}, {NUMBERS["process_vm_writev"]}) for pid in (1, os.getpid())]
    + [system_call({NUMBERS["kcmp"]}, 1, os.getpid(), 0, 0, 0),
       system_call({NUMBERS["pidfd_getfd"]}, os.pidfd_open(1), 0, 0)])"""
    assert arena.ask(code) == ["EPERM"] * 6


def test_the_guest_tries_to_leave_a_key_for_the_next_guest(arena: Any) -> None:  # 22
    code = calls(
        ("add_key", "b'user', b'clawplane-attack', b'secret', 6, -3"),
        ("request_key", "b'user', b'clawplane-attack', 0, 0"),
        ("keyctl", "0, -3, 1"),
        ("keyctl", "1, b'joined'"),
    )
    assert arena.ask(code) == ["EPERM"] * 4


def test_the_guest_tries_to_load_programs_into_the_kernel(arena: Any) -> None:  # 23
    code = calls(
        ("bpf", "0, ctypes.create_string_buffer(128), 128"),
        ("bpf", "5, ctypes.create_string_buffer(128), 128"),
        ("perf_event_open", "ctypes.create_string_buffer(128), 0, -1, -1, 0"),
    )
    assert arena.ask(code) == ["EPERM"] * 3


def test_the_guest_tries_kernel_code_with_a_record_of_escapes(arena: Any) -> None:  # 24
    code = calls(
        ("userfaultfd", "0"),
        ("userfaultfd", "1"),
        ("io_uring_setup", "8, ctypes.create_string_buffer(256)"),
        ("io_uring_enter", "0, 1, 1, 0, 0, 0"),
        ("io_uring_register", "0, 0, 0, 0"),
    )
    assert arena.ask(code) == ["EPERM"] * 5


@pytest.mark.parametrize(
    "flag", [0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000], ids=hex
)
def test_the_guest_tries_to_make_a_namespace(flag: int, arena: Any) -> None:  # 25
    code = calls(("unshare", str(flag)), ("clone", f"{flag | 17}, 0, 0, 0, 0"), ("clone3", "0, 0"))
    if flag == 0x80:  # a time namespace: for clone this bit belongs to the number of the exit signal
        code = calls(("unshare", str(flag)), ("clone3", "0, 0"))
    answers = arena.ask(code)
    assert answers[:-1] == ["EPERM"] * (len(answers) - 1)
    assert answers[-1] == "ENOSYS"  # which makes the C library fall back to clone


def test_the_guest_tries_to_enter_namespaces_through_their_files(arena: Any) -> None:  # 25
    code = f"""
found = []
for name in os.listdir('/proc/self/ns'):
    for pid in ('self', '1'):
        try: descriptor = os.open(f'/proc/{{pid}}/ns/{{name}}', os.O_RDONLY)
        except OSError: continue
        found.append(system_call({NUMBERS["setns"]}, descriptor, 0))
found.append(system_call({NUMBERS["setns"]}, os.pidfd_open(1), 0x10000000))
say(sorted(set(found)))"""
    assert arena.ask(code) == ["EPERM"]


RARE_FAMILIES = [
    "packet",
    "old-firewall",
    "netfilter",
    "uevent",
    "crypto",
    "vsock",
    "key",
    "tipc",
    "xdp",
    "bluetooth",
    "can",
    "rds",
]


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (17, "SOCK_RAW", 0x0300),
        (16, "SOCK_RAW", 2),
        (16, "SOCK_RAW", 12),
        (16, "SOCK_RAW", 15),
        (38, "SOCK_SEQPACKET", 0),
        (40, "SOCK_STREAM", 0),
        (15, "SOCK_RAW", 2),
        (30, "SOCK_STREAM", 0),
        (44, "SOCK_RAW", 0),
        (31, "SOCK_RAW", 1),
        (29, "SOCK_RAW", 1),
        (21, "SOCK_SEQPACKET", 0),
    ],
    ids=RARE_FAMILIES,
)
def test_the_guest_tries_a_rare_socket_family(family: int, kind: str, protocol: int, arena: Any) -> None:  # 26
    assert arena.ask(f"say(tried(socket.socket, {family}, socket.{kind}, {protocol}))") == "EAFNOSUPPORT"


def test_the_guest_tries_raw_packets_and_to_change_the_network(arena: Any) -> None:  # 26
    code = """
route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
import struct
# RTM_NEWLINK for a dummy interface, wanting an acknowledgement
body = struct.pack('=BxHiII', 0, 0, 0, 1, 1) + struct.pack('=HH', 14, 3) + b'attack0\\0\\0\\0\\0\\0'[:12]
route.send(struct.pack('=IHHII', 16 + len(body), 16, 0x605, 1, 0) + body)
answer = struct.unpack_from('=i', route.recv(4096), 16)[0]
say([tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
     tried(socket.socket, socket.AF_INET6, socket.SOCK_RAW, 58),
     tried(socket.socket, socket.AF_INET, socket.SOCK_DGRAM, 1), errno.errorcode[-answer]])"""
    assert arena.ask(code) == ["EPERM", "EPERM", "EPROTONOSUPPORT", "EPERM"]


ADMINISTRATION = {
    "kexec_load": "0, 0, 0, 0",
    "kexec_file_load": "0, 0, 0, 0, 0",
    "init_module": "0, 0, 0",
    "finit_module": "0, b'', 0",
    "delete_module": "b'ext4', 0",
    "reboot": "0xfee1dead, 672274793, 0x89ABCDEF, 0",  # only ctrl-alt-del off
    "swapon": "b'/tmp/swap', 0",
    "swapoff": "b'/tmp/swap'",
    "acct": "0",
    "settimeofday": "ctypes.create_string_buffer(16), 0",
    "clock_settime": "0, ctypes.create_string_buffer(16)",
    "clock_adjtime": "0, ctypes.create_string_buffer(256)",
    "adjtimex": "ctypes.create_string_buffer(256)",
    "syslog": "3, ctypes.create_string_buffer(4096), 4096",
    "quotactl": "0x80000700, 0, 0, 0",
    "sethostname": "b'pwned', 5",
    "setdomainname": "b'pwned', 5",
    "sync": "",
    "vhangup": "",
    "mbind": "0, 0, 0, 0, 0, 0",
    "move_pages": "1, 0, 0, 0, 0, 0",
    "open_by_handle_at": "0, 0, 0",
    "fanotify_init": "0, 0",
    **({"iopl": "3", "ioperm": "0x378, 3, 1", "modify_ldt": "0, 0, 0"} if HERE == "x86_64" else {}),
}


@pytest.mark.parametrize("name", ADMINISTRATION)
def test_the_guest_tries_to_administer_the_host(name: str, arena: Any) -> None:  # 27
    assert arena.ask(calls((name, ADMINISTRATION[name]))) == ["EPERM"]


@pytest.mark.parametrize("request_number", [0x5412, 0x541C, 0x1_0000_5412, 0x7FFF_FFFF_0000_5412, 0x5423], ids=hex)
def test_the_guest_tries_to_type_into_a_terminal(request_number: int, arena: Any) -> None:  # 28
    code = f"""
import pty
controller, terminal = pty.openpty()
say([system_call({NUMBERS["ioctl"]}, each, {request_number}, b'x') for each in (terminal, controller)])"""
    assert arena.ask(code) == ["EPERM", "EPERM"]


def test_the_guest_looks_for_the_terminal_of_whoever_started_it(arena: Any) -> None:  # 28
    code = """
say([tried(os.open, '/dev/tty', os.O_RDWR), [os.isatty(each) for each in (0, 1, 2)], os.getsid(0) == os.getpid()])"""
    refused, terminals, leads = arena.ask(code)
    assert refused != "done"
    assert terminals == [False] * 3
    assert leads


STATUS = "grep -hE '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
WITHOUT_PRIVILEGE = {
    **{f"Cap{name}": "0000000000000000" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")},
    "NoNewPrivs": "1",
    "Seccomp": "2",
}


def privileges(text: str) -> dict[str, str]:
    lines = [line.split(":") for line in text.splitlines() if line.startswith(("Cap", "NoNewPrivs", "Seccomp:"))]
    return {name: value.strip() for name, value in lines}


@pytest.mark.parametrize("language", ["python", "forked python", "shell", "node"])
def test_the_guest_and_its_grandchildren_look_for_privileges(language: str, arena: Any) -> None:  # 29
    nested = f"subprocess.run(['/bin/sh', '-c', \"sh -c \\\"{STATUS}\\\"; true\"])"
    if language == "python":
        guest = arena.python(f"print(open('/proc/self/status').read(), flush=True); {nested}")
    elif language == "forked python":
        guest = arena.forked(f"print(open('/proc/self/status').read(), flush=True); {nested}")
    elif language == "shell":
        guest = arena.shell(f'{STATUS}; sh -c "{STATUS}; true"; true')
    else:
        if shutil.which("node") is None:
            pytest.skip("node is not installed")
        script = "const fs = require('fs'); console.log(fs.readFileSync('/proc/self/status', 'utf8'));"
        script += f"console.log(require('child_process').execSync(`sh -c \"{STATUS}\"`).toString())"
        guest = arena.start(["node", "-e", script])
    guest.end()
    text = guest.out.decode()
    assert text.count("CapEff") == 2, guest.err
    own, _, grandchild = text.rpartition("CapInh")
    assert privileges(own) == privileges("CapInh" + grandchild) == WITHOUT_PRIVILEGE


def test_the_guest_tries_to_win_privileges_back(arena: Any) -> None:  # 29
    code = """
import struct
header = struct.pack('=Ii', 0x20080522, 0)
full = b'\\xff' * 24
prctl = lambda *a: errno.errorcode[ctypes.get_errno()] if _libc.prctl(*a) < 0 else 'done'
say([tried(os.setuid, 0), tried(os.setgroups, [0]), tried(os.setresgid, 0, 0, 0), system_call(CAPSET, header, full),
     prctl(8, 1, 0, 0, 0), prctl(28, 0, 0, 0, 0), prctl(47, 2, 21, 0, 0), prctl(24, 0, 0, 0, 0), prctl(22, 2, 0, 0, 0),
     system_call(SECCOMP, 1, 0, 0)])"""
    code = code.replace("CAPSET", str(NUMBERS["capset"])).replace("SECCOMP", str(NUMBERS["seccomp"]))
    assert set(arena.ask(code)) <= {"EPERM", "EINVAL"}


HOOKS = {
    "PYTHONSTARTUP": "/run/hook/hook.py",
    "PYTHONPATH": "/run/hook",
    "NODE_OPTIONS": "--require /run/hook/hook.js",
    "BASH_ENV": "/run/hook/hook.sh",
    "ENV": "/run/hook/hook.sh",
}


@pytest.mark.parametrize("started", ["python", "forked", "node", "shell"])
def test_the_guest_tries_to_run_hooks_before_it_is_locked_in(
    started: str, arena: Any, tmp_path_factory: Any
) -> None:  # 30
    hooks = arena.directory / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("sitecustomize.py", "usercustomize.py", "hook.py"):
        (hooks / name).write_text("print(open('/proc/self/status').read(), flush=True)\n")
    (hooks / "hook.js").write_text("console.log(require('fs').readFileSync('/proc/self/status', 'utf8'))")
    (hooks / "hook.sh").write_text("cat /proc/self/status\n")
    given = {
        "mounts": [["ReadOnly", {"source": str(hooks), "target": "/run/hook"}]],
        "environment": HOOKS,
    }
    if started == "node" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    if started == "forked":
        script = arena.directory / "plain.py"
        script.write_text("import sitecustomize as it, importlib; importlib.reload(it)\n")
        given["mounts"].append(["ReadOnly", {"source": str(script), "target": "/run/attack.py"}])  # type: ignore[attr-defined]
        guest = arena._start({"do": "python", "script": "/run/attack.py", **given})
    else:
        argv = {
            "python": [os.path.realpath(sys.executable), "-c", ""],
            "node": ["node", "-e", ""],
            "shell": ["/bin/bash", "-c", "true"],
        }[started]
        guest = arena.start(argv, **given)
    guest.end()
    assert "Seccomp" in guest.out.decode(), guest.err
    for seen in guest.out.decode().split("Name:")[1:]:
        assert privileges(seen) == WITHOUT_PRIVILEGE


def test_a_preloaded_library_of_the_guest_runs_inside_only(arena: Any) -> None:  # 30
    """The library does not exist: the loader's complaint shows that it was asked for, and where."""
    guest = arena.shell("true; cat /proc/self/status", environment={"LD_PRELOAD": "/tmp/evil.so"})
    guest.end()
    assert b"/tmp/evil.so" in guest.err
    assert privileges(guest.out.decode()) == WITHOUT_PRIVILEGE


OPEN_A_SANDBOX = """
import asyncio, sys
from pathlib import Path
from clawplane.sandbox import seccomp
from clawplane.sandbox.launch import Sandbox, SandboxUnavailable

async def main():
    try:
        sandbox = await Sandbox.open(state_directory=Path(sys.argv[1]))
    except SandboxUnavailable as problem:
        print("REFUSED", problem)
        return
    await sandbox.close()
    print("OPENED")

if sys.argv[2] == "without namespaces":
    seccomp.install(seccomp.build_filter())
asyncio.run(main())
"""


def test_a_host_that_cannot_isolate_runs_nothing(arena: Any, tmp_path: Path) -> None:  # 31
    """Loading our own filter first leaves a process that can neither unshare nor mount, as a strict container does."""
    change = {"user": arena.uid, "group": arena.uid, "extra_groups": []} if arena.uid and os.geteuid() == 0 else {}
    for what, expected in (("without namespaces", "REFUSED"), ("as it is", "OPENED")):
        result = subprocess.run(
            [sys.executable, "-c", OPEN_A_SANDBOX, str(arena.directory / "state" / "second"), what],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **change,
        )
        assert result.stdout.startswith(expected), (result.stdout, result.stderr)
        if expected == "REFUSED":
            assert "namespaces" in result.stdout


def test_the_table_of_calls_is_the_one_the_guest_meets(arena: Any) -> None:  # 20 to 27, swept
    denied = {
        call.name: call.treatment for call in CALLS if call.treatment in ("EPERM", "ENOSYS") and call.name in NUMBERS
    }
    code = f"""
answers = {{}}
for name, number in json.loads({json.dumps(json.dumps({name: NUMBERS[name] for name in denied}))}).items():
    answers[name] = system_call(number, -1, -1, -1, -1, -1, -1)
say(answers)"""
    assert arena.ask(code) == denied
