"""Classes B and C: /proc, /sys, system calls and privilege (items 16 to 30)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clawplane.sandbox.selftest.items import NUMBERS, Attack, Outcome, calls, refused, says

_KNOBS: Final = {
    "/proc/sys/kernel/core_pattern": "|/tmp/evil",
    "/proc/sysrq-trigger": "b",
    "/proc/sys/vm/drop_caches": "3",
    "/proc/sys/kernel/modprobe": "/tmp/evil",
    "/proc/sys/fs/binfmt_misc/register": ":x:M::evil::/tmp/evil:",
    "/sys/kernel/uevent_helper": "/tmp/evil",
    "/sys/fs/cgroup/release_agent": "/tmp/evil",
    "/proc/1/oom_score_adj": "-1000",
    "/proc/self/uid_map": "0 0 1",
    "/proc/self/setgroups": "allow",
}
_ADMINISTRATION: Final = (
    ("kexec_load", "0, 0, 0, 0"),
    ("init_module", "0, 0, 0"),
    ("finit_module", "0, b'', 0"),
    ("reboot", "0xfee1dead, 672274793, 0x89ABCDEF, 0"),
    ("swapon", "b'/tmp/swap', 0"),
    ("acct", "0"),
    ("settimeofday", "ctypes.create_string_buffer(16), 0"),
    ("clock_settime", "0, ctypes.create_string_buffer(16)"),
    ("adjtimex", "ctypes.create_string_buffer(256)"),
    ("syslog", "3, ctypes.create_string_buffer(4096), 4096"),
    ("quotactl", "0x80000700, 0, 0, 0"),
    ("sethostname", "b'pwned', 5"),
    ("open_by_handle_at", "0, 0, 0"),
)
_NAMESPACES: Final = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_FAMILIES: Final = ((17, 3), (38, 5), (40, 1), (15, 3), (30, 1), (44, 3), (31, 3), (29, 3), (21, 5))
_BARE: Final = {f"Cap{name}": "0000000000000000" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} | {
    "NoNewPrivs": "1",
    "Seccomp": "2",
}


def attacks() -> Sequence[Attack]:
    """Return the attacks."""
    return (*_processes(), *_knobs(), *_others(), *_calls(), *_sockets(), *_privilege())


def _processes() -> Sequence[Attack]:
    return (
        Attack(
            number=16,
            title="looks for processes that are not its own",
            expected="it sees itself and its reaper",
            code="say([len([each for each in os.listdir('/proc') if each.isdigit()]), os.getppid()])",
            judge=says([2, 1]),
        ),
        Attack(
            number=16,
            title="looks into the process that reaps it",
            expected="refused",
            code="""
def reach(name):
    path = f'/proc/1/{name}'
    if name in ('fd', 'map_files'): return tried(os.listdir, path)
    if name in ('cwd', 'exe', 'root'): return tried(os.readlink, path)
    return tried(lambda: open(path, 'rb').read(1))
say([reach(name) for name in ('environ', 'mem', 'maps', 'fd', 'cwd', 'exe', 'root', 'auxv', 'map_files')])""",
            judge=refused("EACCES", "EPERM"),
        ),
        Attack(
            number=16,
            title="looks for secrets in its environment",
            expected="nothing of the platform is in it",
            code="say([name for name in os.environ if 'CLAWPLANE' in name or 'TOKEN' in name or 'SECRET' in name])",
            judge=says([]),
        ),
    )


def _knobs() -> Sequence[Attack]:
    return (
        Attack(
            number=17,
            title="turns kernel knobs",
            expected="refused",
            code=f"say([tried(lambda: os.write(os.open(path, os.O_WRONLY), value.encode())) "
            f"for path, value in {_KNOBS}.items()])",
            judge=refused("EACCES", "EPERM", "EROFS", "ENOENT", "EINVAL"),
        ),
        Attack(
            number=17,
            title="looks for cgroup and sysfs mounts",
            expected="there are none",
            code="""
kinds = {line.split()[2] for line in open('/proc/self/mounts')}
say(sorted(kinds & {'cgroup', 'cgroup2', 'sysfs', 'debugfs', 'tracefs', 'securityfs', 'bpf'}))""",
            judge=says([]),
        ),
        Attack(
            number=18,
            title="reads what the kernel tells about itself",
            expected="refused, absent, empty, or without addresses",
            code="""
found = []
for path in ('kcore', 'kmsg', 'kallsyms', 'keys', 'key-users', 'timer_list', 'kpagemap'):
    try: text = open('/proc/' + path, 'rb').read(1 << 20).decode(errors='replace')
    except OSError: continue
    if [line for line in text.splitlines() if line.split()[:1] != ['0000000000000000']]: found.append(path)
say(found)""",
            judge=says([]),
        ),
    )


def _others() -> Sequence[Attack]:
    vector = "(ctypes.c_size_t * 2)(ctypes.addressof(buffer), 64)"
    return (
        Attack(
            number=20,
            title="traces processes",
            expected="refused",
            code=f"""
child = os.fork()
if child == 0: signal.pause()
answers = [system_call({NUMBERS["ptrace"]}, how, pid, 0, 0) for how in (0, 16, 0x4206) for pid in (1, child)]
os.kill(child, 9); say(answers)""",
            judge=refused("EPERM"),
        ),
        Attack(
            number=21,
            title="reads and writes memory of others",
            expected="refused",
            code=f"""
buffer = ctypes.create_string_buffer(64); vector = {vector}
say([system_call(number, 1, vector, 1, vector, 1, 0)
     for number in ({NUMBERS["process_vm_readv"]}, {NUMBERS["process_vm_writev"]})]
    + [system_call({NUMBERS["pidfd_getfd"]}, os.pidfd_open(1), 0, 0)])""",
            judge=refused("EPERM"),
        ),
        Attack(
            number=22,
            title="leaves a key for the next guest",
            expected="refused",
            code=calls(("add_key", "b'user', b'selftest', b'secret', 6, -3"), ("keyctl", "0, -3, 1")),
            judge=refused("EPERM"),
        ),
    )


def _calls() -> Sequence[Attack]:
    flags = [pair for flag in _NAMESPACES for pair in (("unshare", str(flag)), ("clone", f"{flag | 17}, 0, 0, 0, 0"))]
    denied = {name: number for name, number in NUMBERS.items() if name in ("bpf", "perf_event_open")}
    return (
        Attack(
            number=23,
            title="loads programs into the kernel, opens performance events",
            expected="refused",
            code=calls(*((name, "0, ctypes.create_string_buffer(128), 128, -1, 0") for name in denied)),
            judge=refused("EPERM"),
        ),
        Attack(
            number=24,
            title="tries kernel code with a record of escapes",
            expected="refused",
            code=calls(
                ("userfaultfd", "0"),
                ("io_uring_setup", "8, ctypes.create_string_buffer(256)"),
                ("io_uring_enter", "0, 1, 1, 0, 0, 0"),
                ("io_uring_register", "0, 0, 0, 0"),
            ),
            judge=refused("EPERM"),
        ),
        Attack(
            number=25,
            title="makes namespaces",
            expected="refused",
            code=calls(*flags),
            judge=refused("EPERM"),
        ),
        Attack(
            number=25,
            title="enters namespaces through their files",
            expected="refused",
            code=f"""
found = [system_call({NUMBERS["setns"]}, os.open(f'/proc/self/ns/{{name}}', os.O_RDONLY), 0)
         for name in os.listdir('/proc/self/ns')]
say(sorted(set(found)))""",
            judge=refused("EPERM"),
        ),
        Attack(
            number=27,
            title="administers the host",
            expected="refused",
            code=calls(*_ADMINISTRATION),
            judge=refused("EPERM"),
        ),
        Attack(
            number=28,
            title="types into terminals",
            expected="refused",
            code=f"""
import pty
pair = pty.openpty()
say([system_call({NUMBERS["ioctl"]}, each, number, b'x') for each in pair
     for number in (0x5412, 0x541C, 0x1_0000_5412)] + [tried(os.open, '/dev/tty', os.O_RDWR)])""",
            judge=refused("EPERM", "ENXIO", "ENOENT", "EACCES"),
        ),
    )


def _sockets() -> Sequence[Attack]:
    return (
        Attack(
            number=26,
            title="opens rare and raw sockets",
            expected="refused",
            code=f"say([tried(socket.socket, family, kind, 0) for family, kind in {_FAMILIES}] + "
            "[tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)])",
            judge=refused("EAFNOSUPPORT", "EPERM", "EPROTONOSUPPORT"),
        ),
        Attack(
            number=32,
            title="connects to the host and to the network without a proxy",
            expected="there is no way out of its own loopback",
            code="""
def reach(address):
    with socket.socket() as one:
        one.settimeout(2)
        return tried(one.connect, address)
say([reach((host, port)) for host, port in
     (('127.0.0.1', 22), ('169.254.169.254', 80), ('172.17.0.1', 80), ('192.0.2.1', 80), ('1.1.1.1', 443))])""",
            judge=refused("ENETUNREACH", "ECONNREFUSED", "EHOSTUNREACH", "EPERM"),
        ),
    )


def _privilege() -> Sequence[Attack]:
    status = (
        "say({line.split(':')[0]: line.split(':')[1].strip() for line in open('/proc/self/status') "
        "if line.startswith(('Cap', 'NoNewPrivs', 'Seccomp:'))})"
    )
    grandchild = "grep -hE '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
    return (
        Attack(number=29, title="looks for privileges", expected="it has none", code=status, judge=says(_BARE)),
        Attack(
            number=29,
            title="looks for privileges as a grandchild of a shell",
            expected="it has none",
            argv=("/bin/sh", "-c", f'sh -c "{grandchild}"; true'),
            judge=_without_privilege,
        ),
        Attack(
            number=29,
            title="wins privileges back",
            expected="refused",
            code=f"""
import struct
say([tried(os.setuid, 0), tried(os.setgroups, [0]), tried(os.setresgid, 0, 0, 0),
     system_call({NUMBERS["capset"]}, struct.pack('=Ii', 0x20080522, 0), bytes([255]) * 24)])""",
            judge=refused("EPERM", "EINVAL"),
        ),
        Attack(
            number=30,
            title="has a library preloaded",
            expected="it is looked for inside, by a process without privileges",
            code=f"""
command, environment = ['sh', '-c', {grandchild!r}], {{'LD_PRELOAD': '/tmp/evil.so'}}
print(subprocess.run(command, capture_output=True, text=True, env=environment).stdout)""",
            judge=_without_privilege,
        ),
    )


def _without_privilege(outcome: Outcome) -> str:
    lines = [line.partition(":") for line in outcome.output.splitlines()]
    found = {name: value.strip() for name, _, value in lines if name in _BARE}
    return "" if found == _BARE else f"it has {found}"
