"""Enter and furnish namespaces, and give up privileges in them: the system calls, without policy.

Theory of operation
- The child that sets a guest up holds full capabilities, as host root or in the zygote's own user namespace. It makes
  every namespace but the last with them, so those belong to the outer side, and only then moves into a user namespace
  of its own: whatever a guest may win inside that one gives it no power over its mounts or its network.
- `become` is that last step, in an order that cannot be changed: ids first (with the capabilities kept, so that hosts
  which forbid ordinary users to make user namespaces still let us), then the namespace, then its one-line maps.
- `drop_capabilities` follows in the new namespace, where the kernel starts with everything: bounding set and securebits
  while CAP_SETPCAP is still there, the remaining sets last.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import Final

from clawplane.sandbox import libc
from clawplane.sandbox.identity import Identity

NEWNS: Final = 0x00020000
NEWCGROUP: Final = 0x02000000
NEWUTS: Final = 0x04000000
NEWIPC: Final = 0x08000000
NEWUSER: Final = 0x10000000
NEWPID: Final = 0x20000000
NEWNET: Final = 0x40000000

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_LOCKED_SECUREBITS: Final = (
    0b11101111  # NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each locked; KEEP_CAPS locked off
)
_CAPABILITY_VERSION_3: Final = 0x20080522
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP_RUNNING: Final = 0x1 | 0x40


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    libc.call("unshare", flags, what="unshare")


def enter(descriptor: int, kind: int) -> None:
    """Move into the namespace behind `descriptor`."""
    libc.call("setns", descriptor, kind, what="setns")


def raise_loopback() -> None:
    """Switch the loopback interface of this network namespace on; it starts switched off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = bytearray(struct.pack("16sH14x", b"lo", 0))
        fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", request, 16)
        struct.pack_into("H", request, 16, flags | _IFF_UP_RUNNING)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def set_host_name(name: str) -> None:
    """Name the host of this UTS namespace."""
    socket.sethostname(name)


def write_maps(identity: Identity) -> None:
    """Map the one identity of the calling process, which has just made its user namespace."""
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{identity.inner} {identity.uid} 1"),
        ("gid_map", f"{identity.inner} {identity.gid} 1"),
    ):
        with open(f"/proc/self/{name}", "wb", buffering=0) as file:
            file.write(content.encode())


def become(identity: Identity, *, change_ids: bool) -> None:
    """Take on `identity` and move into a user namespace that knows nothing else.

    With change_ids=False the process already has these ids, as it does in an ordinary user's own namespace.
    """
    if change_ids:
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, what="prctl(PR_SET_SECUREBITS)")
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    set_dumpable(True)  # without it our own map files belong to root and cannot be written
    unshare(NEWUSER)
    write_maps(identity)


def drop_capabilities() -> None:
    """Empty all five capability sets for good and keep uid 0 and changes of uid from bringing any back."""
    for capability in range(_last_capability() + 1):
        _prctl(_PR_CAPBSET_DROP, capability, what="prctl(PR_CAPBSET_DROP)")
    _prctl(_PR_SET_SECUREBITS, _LOCKED_SECUREBITS, what="prctl(PR_SET_SECUREBITS)")
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    libc.call("capset", header, bytes(24), what="capset")  # the ambient set follows the permitted one


def set_dumpable(value: bool) -> None:
    """Say whether same-uid processes may look into this one through /proc."""
    _prctl(_PR_SET_DUMPABLE, int(value), what="prctl(PR_SET_DUMPABLE)")


def die_with_parent(signal_number: int) -> None:
    """Ask for `signal_number` when the parent dies; the kernel forgets it when ids change, so call it after that."""
    _prctl(_PR_SET_PDEATHSIG, signal_number, what="prctl(PR_SET_PDEATHSIG)")


def effective_capabilities() -> int:
    """Return the effective capability set of this process as a bit mask."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"CapEff:"):
                return int(line.split()[1], 16)
    return 0


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


def _prctl(option: int, value: int, *, what: str) -> None:
    zero = ctypes.c_ulong(0)
    libc.call("prctl", option, ctypes.c_ulong(value), zero, zero, zero, what=what)
