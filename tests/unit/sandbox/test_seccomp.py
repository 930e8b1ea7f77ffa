from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import pty
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clawplane.sandbox import libc, namespaces, seccomp, syscall_table
from clawplane.sandbox.syscall_table import CALLS, NEWEST

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED = 0x7FFF0000
KILLED = 0x80000000
HERE = platform.machine()
NUMBERS = {
    call.name: number for call in CALLS if (number := seccomp.number_of(call, seccomp.known_machine(HERE))) is not None
}
BY_NUMBER = {number: name for name, number in NUMBERS.items()}
TREATMENTS = {call.name: call.treatment for call in CALLS}
EXPECTED_WHEN_DENIED = {"EPERM": errno.EPERM, "ENOSYS": errno.ENOSYS}
ENDS_OR_BLOCKS_THE_CALLER = {
    "exit",
    "exit_group",
    "pause",
    "fork",
    "vfork",
    "rt_sigreturn",
    "kill",
    "uprobe",
    "uretprobe",
}
GARBAGE = (0x7FFFFFFFFFFFF000, -1, 0x7FFFFFFFFFFFF000, -1, 0x7FFFFFFFFFFFF000, -1)


def evaluate(
    program: bytes, number: int, arguments: tuple[int, ...] = (), architecture: int = ARCHITECTURES["x86_64"]
) -> int:
    """Run a classic BPF program over one system call, as the kernel would."""
    padded = [argument & (2**64 - 1) for argument in arguments] + [0] * (6 - len(arguments))
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("<HBBI", program, 8 * position)
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            position += operand
        elif code == 0x06:
            return int(operand)
        else:
            truth = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}[
                code
            ]
            position += if_true if truth else if_false


def answer(code: int) -> int:
    return 0x00050000 | code


def error_of(function: Callable[[], object]) -> int:
    """Return the errno a call fails with, 0 when it succeeds."""
    try:
        function()
    except OSError as error:
        return error.errno or -1
    return 0


def raw(name: str, *arguments: object) -> Callable[[], object]:
    return lambda: libc.syscall(NUMBERS[name], *arguments, what=name)


def filtered(function: Callable[[], Any]) -> Callable[[], Any]:
    """Load the filter, then call."""

    def run() -> Any:
        seccomp.install(seccomp.build_filter())
        return function()

    return run


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number_of_the_table_is_answered_as_its_line_says(machine: str) -> None:
    program = seccomp.build_filter(machine=machine)
    for call in CALLS:
        number = seccomp.number_of(call, seccomp.known_machine(machine))
        if number is None or call.treatment not in ("allow", "EPERM", "ENOSYS"):
            continue
        expected = ALLOWED if call.treatment == "allow" else answer(EXPECTED_WHEN_DENIED[call.treatment])
        assert evaluate(program, number, (), ARCHITECTURES[machine]) == expected, call.name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_nobody_knows_do_not_exist_for_the_guest(machine: str) -> None:
    program = seccomp.build_filter(machine=machine)
    known = {seccomp.number_of(call, seccomp.known_machine(machine)) for call in CALLS}
    for number in range(NEWEST + 200):
        if number not in known:
            assert evaluate(program, number, (), ARCHITECTURES[machine]) == answer(errno.ENOSYS), number


def test_the_table_has_one_line_per_call_and_one_call_per_number() -> None:
    names = [call.name for call in CALLS]
    assert len(names) == len(set(names))
    for column in (1, 2):
        numbers = [call[column] for call in CALLS if call[column] is not None]
        assert len(numbers) == len(set(numbers))
    assert all(call.reason for call in CALLS)
    # x86_64 has no gap but the one between the old and the shared numbers
    assert {call.x86_64 for call in CALLS} - {None} == set(range(337)) | set(range(424, NEWEST + 1))


def test_a_foreign_architecture_and_the_x32_numbers_are_killed() -> None:
    program = seccomp.build_filter(machine="x86_64")
    assert evaluate(program, 39, (), 0x40000003) == KILLED  # i386
    assert evaluate(program, 39, (), ARCHITECTURES["aarch64"]) == KILLED
    assert evaluate(program, 0x40000000 | 39) == KILLED
    assert evaluate(program, 0xFFFFFFFF) == answer(errno.ENOSYS)  # what a skipped call looks like


def test_a_machine_without_a_table_is_refused_by_name() -> None:
    with pytest.raises(seccomp.UnsupportedMachineError, match="riscv64"):
        seccomp.build_filter(machine="riscv64")


def test_memory_behind_descriptors_can_be_refused_for_hosts_that_cannot_count_it() -> None:
    number = next(call.x86_64 for call in CALLS if call.name == "memfd_create")
    assert number is not None
    assert evaluate(seccomp.build_filter(machine="x86_64"), number) == ALLOWED
    assert evaluate(seccomp.build_filter(machine="x86_64", allow_memfd=False), number) == answer(errno.EPERM)


@pytest.mark.parametrize("bit", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_with_any_namespace_flag_is_refused_whatever_else_is_set(bit: int) -> None:
    program = seccomp.build_filter(machine="x86_64")
    clone = next(call.x86_64 for call in CALLS if call.name == "clone")
    assert clone is not None
    assert evaluate(program, clone, (bit | 17,)) == answer(errno.EPERM)
    assert evaluate(program, clone, (bit | 0xFFFF_0000_0000_0000,)) == answer(errno.EPERM)
    assert evaluate(program, clone, (0x3D0F00,)) == ALLOWED  # a thread


def sweep() -> dict[str, tuple[int, int]]:
    """Make every call with garbage under the filter, each in a child of its own."""
    namespaces.unshare(namespaces.NEWUSER | namespaces.NEWIPC | namespaces.NEWNET | namespaces.NEWNS)
    seccomp.install(seccomp.build_filter())
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    return {str(number): _one_garbage_call(number) for number in range(NEWEST + 11)}


def test_every_denied_or_unknown_number_is_refused_by_the_real_kernel() -> None:
    # in an interpreter of its own: a fork costs what it copies, and after thousands of tests this one is large
    swept = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=110, check=True)
    answers = json.loads(swept.stdout)
    assert len(answers) == NEWEST + 11
    for text, (status, error) in answers.items():
        name = BY_NUMBER.get(int(text))
        treatment = "ENOSYS" if name is None else TREATMENTS[name]
        if name in ENDS_OR_BLOCKS_THE_CALLER:
            continue
        assert status != -signal.SIGSYS, (text, name)
        if treatment in EXPECTED_WHEN_DENIED:
            assert (status, error) == (0, EXPECTED_WHEN_DENIED[treatment]), (text, name)


def _one_garbage_call(number: int) -> tuple[int, int]:
    """Return how a child ended that made this call, and the errno it saw."""
    if BY_NUMBER.get(number) in ENDS_OR_BLOCKS_THE_CALLER:
        return 0, 0
    shared = mmap.mmap(-1, 8)
    child = os.fork()
    if child == 0:
        signal.alarm(2)
        error = error_of(lambda: libc.syscall(number, *GARBAGE, what="garbage"))
        shared[:8] = struct.pack("<q", error)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, struct.unpack("<q", shared[:8])[0]


REFUSED_BY_ARGUMENT: dict[str, tuple[Callable[[], object], int]] = {
    "unshare a user namespace": (raw("unshare", 0x10000000), errno.EPERM),
    "clone into a user namespace": (raw("clone", 0x10000000 | 17, 0, 0, 0, 0), errno.EPERM),
    "clone3": (raw("clone3", 0, 0), errno.ENOSYS),
    "ptrace": (raw("ptrace", 0, 0, 0, 0), errno.EPERM),
    "packet socket": (lambda: socket.socket(17, socket.SOCK_RAW), errno.EAFNOSUPPORT),
    "crypto socket": (lambda: socket.socket(38, socket.SOCK_SEQPACKET), errno.EAFNOSUPPORT),
    "vsock": (lambda: socket.socket(40, socket.SOCK_STREAM), errno.EAFNOSUPPORT),
    "netfilter netlink": (lambda: socket.socket(16, socket.SOCK_RAW, 12), errno.EAFNOSUPPORT),
    "raw ICMP": (lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), errno.EPERM),
    "SCTP": (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132), errno.EPROTONOSUPPORT),
    "TIPC pair": (raw("socketpair", 30, 1, 0, 0), errno.EAFNOSUPPORT),
    "own filter by prctl": (raw("prctl", 22, 2, 0, 0, 0), errno.EPERM),
    "memory layout by prctl": (raw("prctl", 35, 1, 0, 0, 0), errno.EPERM),
    "core dumps back on": (raw("prlimit64", 0, resource.RLIMIT_CORE, bytes(16), 0), errno.EINVAL),
    "limits of another process": (raw("prlimit64", 1, 7, 0, 0), errno.EPERM),
    "another personality": (raw("personality", 0x0040000), errno.EPERM),
    "lease": (lambda: fcntl.fcntl(0, 1024, 0), errno.EPERM),
    "directory notification": (lambda: fcntl.fcntl(0, 1026, 1), errno.EPERM),
}


@pytest.mark.parametrize("what", REFUSED_BY_ARGUMENT)
def test_a_call_is_refused_for_its_arguments(what: str, in_child: Any) -> None:
    call, expected = REFUSED_BY_ARGUMENT[what]
    assert in_child(filtered(lambda: error_of(call))).value == expected


@pytest.mark.parametrize("request_number", [0x5412, 0x541C, 0x5423, 0x1_0000_5412, 0x7FFF_FFFF_0000_541C])
def test_a_terminal_takes_no_injected_input_whatever_the_upper_bits_say(request_number: int, in_child: Any) -> None:
    def inject() -> int:
        _, terminal = pty.openpty()
        return error_of(raw("ioctl", terminal, request_number, ctypes.c_char_p(b"x")))

    assert in_child(filtered(inject)).value == errno.EPERM


@pytest.mark.skipif(HERE != "x86_64", reason="the 32-bit entry is an instruction of x86")
def test_the_32_bit_entry_ends_the_guest(in_child: Any) -> None:
    def enter() -> None:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()

    # a kernel without the 32-bit entry ends it with SIGSEGV by itself
    outcome = in_child(filtered(enter))
    assert outcome.status in (-signal.SIGSYS, -signal.SIGSEGV)


@pytest.mark.skipif(HERE != "x86_64", reason="x32 exists on x86_64 only")
def test_an_x32_number_ends_the_guest(in_child: Any) -> None:
    getpid = 0x40000000 | 39
    assert in_child(filtered(lambda: libc.syscall(getpid, what="x32 getpid"))).status == -signal.SIGSYS


def test_what_python_programs_need_still_works(in_child: Any) -> None:
    def ordinary_program() -> list[object]:
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append("thread"))
        thread.start()
        thread.join()
        seen.append(
            subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, check=True)
            .stdout.strip()
            .decode()
        )
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            seen.append("tcp")
        seen.append(socket.getaddrinfo("127.0.0.1", 1)[0][4][0])
        seen.append(asyncio.run(_subprocess_in_a_loop()))
        seen.append(resource.getrlimit(resource.RLIMIT_CORE)[0] >= -1)
        os.close(os.memfd_create("x"))
        return seen

    assert in_child(filtered(ordinary_program)).value == ["thread", "42", "tcp", "127.0.0.1", 3, True]


async def _subprocess_in_a_loop() -> int:
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 3")
    return await process.wait()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_starts_and_makes_threads_under_the_filter(in_child: Any) -> None:
    script = "new (require('worker_threads').Worker)('console.log(1)', {eval: true})"
    run = filtered(lambda: subprocess.run(["node", "-e", script], capture_output=True, check=True, text=True).stdout)
    assert in_child(run).value == "1\n"


def test_children_inherit_the_filter_and_cannot_gain_privileges(in_child: Any) -> None:
    command = ["grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status"]
    run = filtered(lambda: subprocess.run(command, capture_output=True, check=True).stdout.decode().split())
    assert in_child(run).value == ["NoNewPrivs:", "1", "Seccomp:", "2"]


def test_a_broken_program_is_refused_and_not_ignored(in_child: Any) -> None:
    broken = bytes(8)
    assert in_child(lambda: error_of(lambda: seccomp.install(broken))).value == errno.EINVAL


def test_the_newest_number_matches_the_table() -> None:
    assert max(call.x86_64 or 0 for call in CALLS) == syscall_table.NEWEST


if __name__ == "__main__":
    print(json.dumps(sweep()))
