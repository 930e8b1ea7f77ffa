"""Turn a fresh fork of the zygote into a guest, or say why that cannot be.

Theory of operation. The fork is pid 1 of a new pid namespace and still holds the zygote's rights. In this order:
1. cgroups, before anything is allocated and before the cgroup namespace takes its root from them;
2. the pidfd to the supervisor, which can kill us from here on;
3. namespaces, the file tree, loopback, listeners: all that needs rights;
4. identity, user namespace, capabilities, rlimits, Landlock: each step less is possible;
5. a second fork: the parent stays as reaper, out of reach of the child; the child closes every descriptor but its
   standard streams, loads the system call filter, and only then reads anything a user wrote.
The child holds one more descriptor, the gate (see gate.py), at whose other end pid 1 waits.
A resident (see resident.py) ends with step 4: pid 1 loads the filter itself, and every later fork of it is a member.
A resident that waits stops in step 3, half-made: it knows nothing yet of who will live in it, and nobody but our own
code is in its namespaces. The first order tells its last mounts; then it goes on as any other.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from clawplane.sandbox import landlock, limits, namespaces, seccomp
from clawplane.sandbox.inside import (
    command_line,
    descriptors,
    gate,
    joining,
    orders,
    reaper,
    report,
    resident,
    root,
    signal_mask,
)
from clawplane.sandbox.policy import Listener, Mount
from clawplane.sandbox.request import Request, Residence, Start, decode, decode_mounts

_BACKLOG: Final = 1024


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
    """What came with one request; `outputs` are stdout and stderr or nothing, `cgroups`: see joining.py."""

    request: int
    report: int
    outputs: tuple[int, ...]
    cgroups: tuple[int, ...]


def prepare(surroundings: Surroundings, given: Descriptors, groups: Sequence[int]) -> Start:
    """Isolate the calling process; returns in a main process of the guest only, with what that shall run.

    `groups`: those of given.cgroups that it was not born in.
    """
    try:
        joining.join(groups)
        me = os.pidfd_open(os.getpid())
        report.say(given.report, report.BORN, descriptors=[me])
        os.close(me)
        request = decode(descriptors.read_whole(given.request))
        if surroundings.privileged or not isinstance(request.program, Residence):
            joining.go_early(joining.GUEST)
        _furnish(surroundings, given, request)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored in the zygote, and ignoring is inherited
        reaper.block_signals()
        namespaces.set_dumpable(False)  # pid 1 is closed to its own children
    except BaseException as problem:
        _fail(given.report, problem)
    if isinstance(request.program, Residence):
        return _reside(surroundings, given.report)
    gate_read, gate_write = os.pipe()
    try:
        main = os.fork()
    except OSError as problem:
        _fail(given.report, problem)
    if main:
        _stay_behind(surroundings, given.report, gate_read, main)
    _finish_guest(surroundings, given, request, gate_write)
    return Start(request.program, request.policy.environment, request.policy.working_directory)


def _furnish(surroundings: Surroundings, given: Descriptors, request: Request) -> None:
    policy, identity = request.policy, request.identity
    os.setsid()
    flags = namespaces.NEWNS | namespaces.NEWUTS | namespaces.NEWIPC | namespaces.NEWCGROUP
    if policy.network == "loopback":
        flags |= namespaces.NEWNET
    namespaces.unshare(flags)
    privileged = surroundings.privileged
    tree = root.begin(surroundings.staging, policy, identity, surroundings.prefixes, translate=privileged)
    namespaces.set_host_name(policy.host_name)
    if policy.network == "loopback":
        namespaces.raise_loopback()
    _listen(given.report, policy.listeners)
    for descriptor in given.outputs:
        os.fchown(descriptor, *identity.owner)  # /dev/stdout opens it anew, by owner and mode
    later: tuple[Mount, ...] = ()
    if isinstance(request.program, Residence) and request.program.waits:
        tree.expect((os.getuid(), os.getgid()))
        later = _told_later(given.report)
        tree.add(later)
    tree.finish()
    namespaces.become(identity, change_ids=privileged)
    namespaces.drop_capabilities()
    limits.apply_rlimits(policy.limits, cgroups=request.cgroups)
    landlock.restrict(["/"], root.writable_targets((*policy.mounts, *later)))


def _told_later(channel: int) -> tuple[Mount, ...]:
    """Wait, as long as it takes, for the mounts of whoever moves in; ends when the supervisor is gone."""
    connection = socket.socket(fileno=channel)
    message, received, _flags, _address = socket.recv_fds(connection, orders.LARGEST, orders.MOST_DESCRIPTORS)
    connection.detach()
    if not message:
        os._exit(0)
    (content,) = received
    return decode_mounts(descriptors.read_whole(content))


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


def _fail(channel: int, problem: BaseException) -> NoReturn:
    report.say(channel, report.FAILED, gate.sentence(problem))
    os._exit(1)


def _reside(surroundings: Surroundings, channel: int) -> Start:
    """Start members until the supervisor is gone; returns in the members only."""
    try:
        surroundings.command_line.show(["init"])
        channel, children = descriptors.keep_only(channel, resident.children_descriptor())
        os.chdir("/")
        seccomp.install(surroundings.program_filter)
        report.say(channel, report.READY)
        return resident.PidOne(channel, children).serve()
    except BaseException as problem:
        _fail(channel, problem)


def _stay_behind(surroundings: Surroundings, channel: int, waiting: int, main: int) -> NoReturn:
    try:
        surroundings.command_line.show(["init"])
        channel, waiting = descriptors.keep_only(channel, waiting)
        os.chdir("/")
        seccomp.install(surroundings.program_filter)
        problem = os.read(waiting, report.LARGEST)
        os.close(waiting)
        if problem:
            report.say(channel, report.FAILED, problem)
            os._exit(1)
        report.say(channel, report.READY)
        reaper.reap_until_end(main, channel)
    except BaseException as problem_here:
        report.say(channel, report.FAILED, gate.sentence(problem_here))
    finally:
        os._exit(1)


def _finish_guest(surroundings: Surroundings, given: Descriptors, request: Request, at_gate: int) -> None:
    """Leave nothing of ours open and load the filter; whatever goes wrong ends the process with a sentence."""
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        descriptors.place([null, *given.outputs, at_gate])
        at_gate = gate.GATE
        os.set_inheritable(at_gate, False)
        os.setsid()
        namespaces.set_dumpable(True)
        signal_mask.change_mask(signal_mask.SET, ())
        seccomp.install(surroundings.program_filter)
        os.chdir(request.policy.working_directory)
    except BaseException as problem:
        gate.fail(problem, at_gate)
