"""Turn a fresh fork of the zygote into a guest, or say why that cannot be.

Theory of operation. The fork is pid 1 of a new pid namespace and still holds the zygote's rights. In this order:
1. cgroups, before anything is allocated and before the cgroup namespace takes its root from them;
2. the pidfd to the supervisor, which can kill us from here on;
3. namespaces, the file tree, loopback, listeners: all that needs rights;
4. identity, user namespace, capabilities, rlimits, Landlock: each step less is possible;
5. a second fork: the parent stays as reaper, out of reach of the child; the child closes every descriptor but its
   standard streams, loads the system call filter, and only then reads anything a user wrote.
The child holds one more descriptor, the gate: closed by exec or right before user code, it tells pid 1 that set-up is
over; a sentence written to it says that it failed.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from clawplane.sandbox import landlock, libc, limits, namespaces, seccomp
from clawplane.sandbox.inside import command_line, reaper, report, root
from clawplane.sandbox.policy import Listener
from clawplane.sandbox.request import Request, decode

GATE: Final = 3
_CLOSE_RANGE: Final = 436
_BACKLOG: Final = 1024
_DEFAULT_ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a zygote knows and each of its children needs."""

    staging: str
    privileged: bool
    prefixes: tuple[str, ...]
    program_filter: bytes
    command_line: command_line.CommandLine


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What came with one request; `cgroups` are open cgroup.procs files."""

    request: int
    report: int
    stdout: int
    stderr: int
    cgroups: tuple[int, ...]


def prepare(surroundings: Surroundings, given: Descriptors) -> Request:
    """Isolate the calling process; returns in the guest's main process only, with what it shall run."""
    try:
        _join(given.cgroups)
        me = os.pidfd_open(os.getpid())
        report.say(given.report, report.BORN, descriptors=[me])
        os.close(me)
        _be_the_first_to_go()
        request = decode(_read_all(given.request))
        _furnish(surroundings, given, request)
        gate_read, gate_write = os.pipe()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored in the zygote, and ignoring is inherited
        reaper.block_signals()
        namespaces.set_dumpable(False)  # pid 1 is closed to its own children
        main = os.fork()
    except BaseException as problem:
        report.say(given.report, report.FAILED, _sentence(problem))
        os._exit(1)
    if main:
        _stay_behind(surroundings, given.report, gate_read, main)
    _finish_guest(surroundings, given, request, gate_write)
    return request


def fail_at_gate(problem: BaseException) -> NoReturn:
    """End the guest's main process before user code, with a sentence for pid 1."""
    os.write(GATE, _sentence(problem))
    os._exit(1)


def environment(request: Request) -> dict[str, str]:
    """Return the guest's whole environment."""
    return {**_DEFAULT_ENVIRONMENT, **request.policy.environment}


def _furnish(surroundings: Surroundings, given: Descriptors, request: Request) -> None:
    policy, identity = request.policy, request.identity
    os.setsid()
    flags = namespaces.NEWNS | namespaces.NEWUTS | namespaces.NEWIPC | namespaces.NEWCGROUP
    if policy.network == "loopback":
        flags |= namespaces.NEWNET
    namespaces.unshare(flags)
    root.build(surroundings.staging, policy, identity, surroundings.prefixes, translate=surroundings.privileged)
    namespaces.set_host_name(policy.host_name)
    if policy.network == "loopback":
        namespaces.raise_loopback()
    _listen(given.report, policy.listeners)
    for descriptor in (given.stdout, given.stderr):
        os.fchown(descriptor, *identity.owner)  # /dev/stdout opens it anew, by owner and mode
    namespaces.become(identity, change_ids=surroundings.privileged)
    namespaces.drop_capabilities()
    limits.apply_rlimits(policy.limits, cgroups=request.cgroups)
    landlock.restrict(["/"], root.writable_targets(policy))


def _join(groups: Sequence[int]) -> None:
    try:
        for descriptor in groups:
            os.write(descriptor, b"0")
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, "joining a cgroup") from None


def _be_the_first_to_go() -> None:
    """Let the kernel choose guests, not the runner, when the whole host is out of memory."""
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"500")


def _listen(channel: int, listeners: Sequence[Listener]) -> None:
    opened: list[socket.socket] = []
    for each in listeners:
        family = socket.AF_INET6 if ":" in each.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listening.bind((each.host, each.port))
        except OSError as problem:
            raise root.SetupError(f"cannot listen on {each.host}:{each.port}: {problem.strerror}") from None
        listening.listen(_BACKLOG)
        opened.append(listening)
    report.say(channel, report.LISTENING, descriptors=[listening.fileno() for listening in opened])
    for listening in opened:
        listening.close()


def _stay_behind(surroundings: Surroundings, channel: int, gate: int, main: int) -> NoReturn:
    try:
        surroundings.command_line.show(["init"])
        channel, gate = _keep_only(channel, gate)
        os.chdir("/")
        seccomp.install(surroundings.program_filter)
        problem = os.read(gate, report.LARGEST)
        os.close(gate)
        if problem:
            report.say(channel, report.FAILED, problem)
            os._exit(1)
        report.say(channel, report.READY)
        reaper.reap_until_end(main, channel)
    except BaseException as problem_here:
        report.say(channel, report.FAILED, _sentence(problem_here))
    finally:
        os._exit(1)


def _finish_guest(surroundings: Surroundings, given: Descriptors, request: Request, gate: int) -> None:
    """Leave nothing of ours open and load the filter; whatever goes wrong ends the process with a sentence."""
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        _place([null, given.stdout, given.stderr, gate])
        gate = GATE
        os.set_inheritable(gate, False)
        os.setsid()
        namespaces.set_dumpable(True)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        seccomp.install(surroundings.program_filter)
        os.chdir(request.policy.working_directory)
    except BaseException as problem:
        os.write(gate, _sentence(problem))
        os._exit(1)


def _keep_only(*kept: int) -> tuple[int, ...]:
    null = os.open("/dev/null", os.O_RDWR)
    numbers = tuple(range(3, 3 + len(kept)))
    _place([null, null, null, *kept])
    return numbers


def _place(wanted: Sequence[int]) -> None:
    """Give the descriptors of `wanted` the numbers 0, 1, 2 and so on, and close every other."""
    lifted = []
    for descriptor in wanted:
        copy = os.dup(descriptor)
        while copy < len(wanted):  # a low number would be overwritten before its turn
            copy = os.dup(copy)
        lifted.append(copy)
    for number, descriptor in enumerate(lifted):
        os.dup2(descriptor, number)
    libc.syscall(_CLOSE_RANGE, len(wanted), 0xFFFFFFFF, 0, what="close_range")


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    content = os.pread(descriptor, size, 0)
    os.close(descriptor)
    return content


def _sentence(problem: BaseException) -> bytes:
    if isinstance(problem, OSError) and problem.filename is not None:
        text = f"{problem.filename}: {problem.strerror}"
    elif isinstance(problem, OSError) and problem.strerror:
        text = problem.strerror
    else:
        text = f"{problem}" if isinstance(problem, root.SetupError) else f"{type(problem).__name__}: {problem}"
    return text.encode(errors="replace")
