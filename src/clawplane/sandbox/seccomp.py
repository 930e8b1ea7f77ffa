"""Build and load the system call filter of a guest.

Theory of operation
- The program is classic BPF, assembled here, so that no library is needed at run time: `build_filter` once in the
  launcher, `install` in each child after fork.
- Order: architecture (a foreign one is killed), x32 bit (killed), numbers nobody knows (ENOSYS), denied numbers, calls
  whose arguments decide, everything else is allowed.
- The kernel runs the program once per number when it is loaded and remembers which numbers are allowed whatever their
  arguments are; those never run it again (Linux 5.11 and newer). A linear program is therefore fast enough.
- Arguments are compared on their low 32 bits: the kernel takes them as 32-bit values too, so bits set above
  them must not hide a request. A pointer is compared with null on both halves.
- A filter sees no memory. What hides behind a pointer (clone3) is refused as a whole.
- Landlock comes first: the filter refuses its calls.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import platform
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from clawplane.sandbox import libc, syscall_table
from clawplane.sandbox.syscall_table import CALLS, Treatment

Machine = Literal["x86_64", "aarch64"]

_AUDIT_ARCHITECTURE: Final[Mapping[Machine, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000
_SKIPPED_BY_TRACER: Final = 0xFFFFFFFF

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP: Final = 0x05  # BPF_JMP | BPF_JA
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_RET_KILL_PROCESS: Final = 0x80000000
_RET_ERRNO: Final = 0x00050000
_RET_ALLOW: Final = 0x7FFF0000

_OFFSET_NUMBER: Final = 0
_OFFSET_ARCHITECTURE: Final = 4
_OFFSET_ARGUMENTS: Final = 16

_CLONE_NEW: Final = 0x7E020000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_TERMINAL_REQUESTS: Final = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
_SHARED_INODE_COMMANDS: Final = (1024, 1026, 1040)  # F_SETLEASE, F_NOTIFY, F_SETDELEG
_RLIMIT_CORE: Final = 4
_PERSONALITY_QUERY: Final = 0xFFFFFFFF
_SOCKET_TYPE_MASK: Final = 0xF  # the rest are SOCK_CLOEXEC and SOCK_NONBLOCK
_INTERNET_PROTOCOLS: Final = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)

ALLOWED_PRCTL: Final[Mapping[str, int]] = {
    "PR_SET_PDEATHSIG": 1,
    "PR_GET_PDEATHSIG": 2,
    "PR_GET_DUMPABLE": 3,
    "PR_SET_DUMPABLE": 4,  # key agents insist on it; the core limit, which is locked, keeps crash programs away
    "PR_GET_KEEPCAPS": 7,
    "PR_SET_NAME": 15,
    "PR_GET_NAME": 16,
    "PR_GET_SECCOMP": 21,
    "PR_CAPBSET_READ": 23,
    "PR_GET_TSC": 25,
    "PR_GET_SECUREBITS": 27,
    "PR_SET_TIMERSLACK": 29,
    "PR_GET_TIMERSLACK": 30,
    "PR_SET_CHILD_SUBREAPER": 36,
    "PR_GET_CHILD_SUBREAPER": 37,
    "PR_SET_NO_NEW_PRIVS": 38,
    "PR_GET_NO_NEW_PRIVS": 39,
    "PR_GET_TID_ADDRESS": 40,
    "PR_SET_THP_DISABLE": 41,
    "PR_GET_THP_DISABLE": 42,
    "PR_CAP_AMBIENT": 47,  # libcap asks; without permitted capabilities none can be raised
    "PR_SVE_SET_VL": 50,
    "PR_SVE_GET_VL": 51,
    "PR_GET_SPECULATION_CTRL": 52,
    "PR_SET_SPECULATION_CTRL": 53,  # browsers and JITs tighten themselves with it; what the kernel forces stays
    "PR_PAC_RESET_KEYS": 54,
    "PR_SET_TAGGED_ADDR_CTRL": 55,
    "PR_GET_TAGGED_ADDR_CTRL": 56,
    "PR_SET_MDWE": 65,
    "PR_GET_MDWE": 66,
    "PR_SET_VMA": 0x53564D41,  # names of anonymous memory; glibc, V8 and Go use it
    "PR_GET_AUXV": 0x41555856,
}


class UnsupportedMachineError(Exception):
    """There is no system call table for this processor architecture."""


class _Described(ctypes.Structure):
    """What the kernel calls struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class _Instruction(NamedTuple):
    code: int
    operand: int
    if_true: str | None = None
    if_false: str | None = None


class _Program:
    """Collect instructions with named jump targets and assemble them."""

    def __init__(self) -> None:
        self._instructions: list[_Instruction] = []
        self._labels: dict[str, int] = {}
        self._next_label = 0

    def label(self, name: str) -> None:
        self._labels[name] = len(self._instructions)

    def fresh(self, stem: str) -> str:
        self._next_label += 1
        return f"{stem}-{self._next_label}"

    def load(self, offset: int) -> None:
        self._instructions.append(_Instruction(_LOAD, offset))

    def load_argument(self, index: int, *, high: bool = False) -> None:
        self.load(_OFFSET_ARGUMENTS + 8 * index + (4 if high else 0))

    def mask(self, bits: int) -> None:
        self._instructions.append(_Instruction(_AND, bits))

    def test(self, code: int, operand: int, if_true: str | None = None, if_false: str | None = None) -> None:
        """Compare the accumulator; None goes on with the next instruction."""
        self._instructions.append(_Instruction(code, operand, if_true, if_false))

    def answer(self, value: int) -> None:
        self._instructions.append(_Instruction(_RETURN, value))

    def jump(self, target: str) -> None:
        self._instructions.append(_Instruction(_JUMP, 0, target))

    def assemble(self) -> bytes:
        return b"".join(self._encode(index, each) for index, each in enumerate(self._instructions))

    def _encode(self, index: int, each: _Instruction) -> bytes:
        if each.code == _JUMP and each.if_true is not None:
            return struct.pack("<HBBI", _JUMP, 0, 0, self._labels[each.if_true] - index - 1)
        true, false = (0 if name is None else self._labels[name] - index - 1 for name in (each.if_true, each.if_false))
        if not (0 <= true <= 255 and 0 <= false <= 255):
            raise ValueError(f"jump from instruction {index} is out of reach")
        return struct.pack("<HBBI", each.code, true, false, each.operand)


def build_filter(*, machine: str | None = None, allow_memfd: bool = True) -> bytes:
    """Assemble the filter for `machine` (default: this one), 8 bytes per instruction.

    Without memory cgroups pass allow_memfd=False: memory behind a memfd is counted by no rlimit.
    Raises UnsupportedMachineError.
    """
    here = known_machine(machine or platform.machine())
    program = _Program()
    program.load(_OFFSET_ARCHITECTURE)
    program.test(_EQUAL, _AUDIT_ARCHITECTURE[here], "native", None)
    program.answer(_RET_KILL_PROCESS)
    program.label("native")
    program.load(_OFFSET_NUMBER)
    if here == "x86_64":
        _refuse_x32(program)
    numbers = {call.name: number for call in CALLS if (number := number_of(call, here)) is not None}
    _refuse_unknown(program, sorted(numbers.values()))
    for refusal, code in (("EPERM", errno.EPERM), ("ENOSYS", errno.ENOSYS)):
        denied = [numbers[call.name] for call in CALLS if call.treatment == refusal and call.name in numbers]
        if code == errno.EPERM and not allow_memfd:
            denied.append(numbers["memfd_create"])
        _refuse(program, denied, code)
    for call in CALLS:
        if call.name in numbers and call.treatment not in ("allow", "EPERM", "ENOSYS", "memfd"):
            _check(program, numbers[call.name], call.treatment)
    program.answer(_RET_ALLOW)
    return program.assemble()


def install(program: bytes) -> None:
    """Forbid new privileges and load `program` into the calling thread, for good; children inherit it.

    Raises OSError when the kernel refuses, which must end the child: nothing may run unfiltered.
    """
    described = _Described(len(program) // 8, program)  # keeps `program` alive across the call
    zero = ctypes.c_ulong(0)
    libc.call("prctl", 38, ctypes.c_ulong(1), zero, zero, zero, what="prctl(PR_SET_NO_NEW_PRIVS)")
    libc.call("prctl", 22, ctypes.c_ulong(2), ctypes.byref(described), zero, zero, what="prctl(PR_SET_SECCOMP)")


def known_machine(name: str) -> Machine:
    """Return `name` when there is a table for it, else raise UnsupportedMachineError."""
    if name == "x86_64":
        return "x86_64"
    if name == "aarch64":
        return "aarch64"
    raise UnsupportedMachineError(f"{os.uname().sysname} on {name} has no system call table; use x86_64 or aarch64")


def number_of(call: syscall_table.Call, machine: Machine) -> int | None:
    """Return the number of `call` on `machine`, None where it does not exist."""
    return call.x86_64 if machine == "x86_64" else call.aarch64


def _errno(code: int) -> int:
    return _RET_ERRNO | code


def _refuse_x32(program: _Program) -> None:
    program.test(_AT_LEAST, _X32_BIT, None, "no-x32")
    program.test(_EQUAL, _SKIPPED_BY_TRACER, "no-number", None)
    program.answer(_RET_KILL_PROCESS)
    program.label("no-number")
    program.answer(_errno(errno.ENOSYS))
    program.label("no-x32")


def _refuse_unknown(program: _Program, known: Sequence[int]) -> None:
    """Answer ENOSYS for every number between or above the known ones."""
    gaps = [(low + 1, high) for low, high in itertools.pairwise(known) if high > low + 1]
    target, done = program.fresh("unknown"), program.fresh("known")
    for first, end in gaps:
        after = program.fresh("after-gap")
        program.test(_AT_LEAST, end, after, None)
        program.test(_AT_LEAST, first, target, None)
        program.label(after)
    program.test(_AT_LEAST, known[-1] + 1, target, done)
    program.label(target)
    program.answer(_errno(errno.ENOSYS))
    program.label(done)


def _refuse(program: _Program, numbers: Iterable[int], code: int) -> None:
    target, done = program.fresh("refuse"), program.fresh("refused")
    for number in sorted(numbers):
        program.test(_EQUAL, number, target, None)
    program.jump(done)
    program.label(target)
    program.answer(_errno(code))
    program.label(done)


def _check(program: _Program, number: int, treatment: Treatment) -> None:
    """Emit one block that decides by arguments and always answers; other numbers jump over it."""
    after = program.fresh("after-check")
    program.test(_EQUAL, number, None, after)
    if treatment == "clone":
        program.load_argument(0)
        _answer_bits(program, _CLONE_NEW, errno.EPERM)
    elif treatment == "ioctl":
        _answer_listed(program, 1, _TERMINAL_REQUESTS, listed=_errno(errno.EPERM), other=_RET_ALLOW)
    elif treatment == "fcntl":
        _answer_listed(program, 1, _SHARED_INODE_COMMANDS, listed=_errno(errno.EPERM), other=_RET_ALLOW)
    elif treatment == "prctl":
        _answer_listed(program, 0, ALLOWED_PRCTL.values(), listed=_RET_ALLOW, other=_errno(errno.EPERM))
    elif treatment == "personality":
        _answer_listed(program, 0, (_PERSONALITY_QUERY,), listed=_RET_ALLOW, other=_errno(errno.EPERM))
    elif treatment == "setrlimit":
        # EINVAL, not EPERM: programs that switch their core dumps off treat it as "this system has none"
        _answer_listed(program, 0, (_RLIMIT_CORE,), listed=_errno(errno.EINVAL), other=_RET_ALLOW)
    elif treatment == "prlimit":
        _check_prlimit(program)
    elif treatment == "socketpair":
        _answer_listed(program, 0, (socket.AF_UNIX,), listed=_RET_ALLOW, other=_errno(errno.EAFNOSUPPORT))
    elif treatment == "socket":
        _check_socket(program)
    else:
        raise ValueError(f"no check is written for {treatment}")
    program.label(after)


def _answer_bits(program: _Program, bits: int, code: int) -> None:
    allowed = program.fresh("no-bits")
    program.test(_ANY_BIT, bits, None, allowed)
    program.answer(_errno(code))
    program.label(allowed)
    program.answer(_RET_ALLOW)


def _answer_listed(program: _Program, argument: int, values: Iterable[int], *, listed: int, other: int) -> None:
    target = program.fresh("listed")
    program.load_argument(argument)
    for value in values:
        program.test(_EQUAL, value, target, None)
    program.answer(other)
    program.label(target)
    program.answer(listed)


def _check_prlimit(program: _Program) -> None:
    """Allow pid 0 only, and for RLIMIT_CORE only to read (a null pointer to the new limit)."""
    own, core, refused, allowed = (program.fresh(stem) for stem in ("own", "core", "refused", "allowed"))
    program.load_argument(0)
    program.test(_EQUAL, 0, own, None)
    program.answer(_errno(errno.EPERM))
    program.label(own)
    program.load_argument(1)
    program.test(_EQUAL, _RLIMIT_CORE, core, allowed)
    program.label(core)
    program.load_argument(2)
    program.test(_EQUAL, 0, None, refused)
    program.load_argument(2, high=True)
    program.test(_EQUAL, 0, allowed, refused)
    program.label(refused)
    program.answer(_errno(errno.EINVAL))
    program.label(allowed)
    program.answer(_RET_ALLOW)


def _check_socket(program: _Program) -> None:
    """Allow UNIX, TCP and UDP over INET and INET6, and NETLINK ROUTE."""
    names = ("unix", "internet", "netlink", "type", "protocol", "family-refused")
    unix, internet, netlink, typed, protocol, refused = (program.fresh(name) for name in names)
    program.load_argument(0)
    program.test(_EQUAL, socket.AF_UNIX, unix, None)
    program.test(_EQUAL, socket.AF_INET, internet, None)
    program.test(_EQUAL, socket.AF_INET6, internet, None)
    program.test(_EQUAL, socket.AF_NETLINK, netlink, refused)
    program.label(netlink)
    program.load_argument(2)
    program.test(_EQUAL, 0, unix, refused)
    program.label(refused)
    program.answer(_errno(errno.EAFNOSUPPORT))
    program.label(internet)
    program.load_argument(1)
    program.mask(_SOCKET_TYPE_MASK)
    program.test(_EQUAL, int(socket.SOCK_STREAM), protocol, None)
    program.test(_EQUAL, int(socket.SOCK_DGRAM), protocol, typed)
    program.label(typed)
    program.answer(_errno(errno.EPERM))
    program.label(protocol)
    # other protocols (SCTP, DCCP, MPTCP, SMC) load rarely used kernel modules on demand
    _answer_listed(program, 2, _INTERNET_PROTOCOLS, listed=_RET_ALLOW, other=_errno(errno.EPROTONOSUPPORT))
    program.label(unix)
    program.answer(_RET_ALLOW)
