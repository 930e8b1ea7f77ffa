"""Be pid 1 of a resident: start members when the supervisor asks, reap everything, report how members end.

Theory of operation
- Pid 1 never runs anything a user wrote. It is done with its rights (capabilities, filter, Landlock) before the first
  order, and members are forks of it, so all of that is theirs from their first instruction.
- Members share its user id. What keeps them off it: they are below it in its pid namespace, where the kernel drops
  every KILL and STOP to it; all other signals are blocked and mean nothing; it is not dumpable, so its memory and
  descriptors are closed to them; ptrace and prlimit of others are filtered.
- It listens to two descriptors: the supervisor's socket, which no member ever holds, and the kernel's word that a child
  changed. What a member shall run arrives as a memory file that pid 1 passes on unread: the fork reads it. So nothing
  a guest wrote passes through pid 1, and the environment of one member is in the memory of no other.
- A member is a child of pid 1 that the supervisor knows by number. Orphans are reaped without a word: a guest may make
  thousands of them. A copy that an interpreter makes of itself by a double fork is such an orphan until the supervisor
  adopts it; pid 1 is its parent by then, and since it has not reaped it, the pid cannot belong to anybody else.
- Signals, kills and clocks are none of its business: the supervisor has a pidfd of every member, and a cgroup or a view
  of the whole tree from outside (see resident.py beside `launch`), which a guest that takes all CPU cannot delay.
- But one: where no freezer is, only kill(2) of -1 from in here reaches all processes in one stroke, those that are just
  being forked, too. Who walks over the tree from outside is always a step behind a chain of forks.
- When the supervisor closes its socket pid 1 ends, and the kernel ends everybody else in the namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import Final

from clawplane.sandbox import libc, namespaces
from clawplane.sandbox.inside import descriptors, gate, joining, orders, report, signal_mask
from clawplane.sandbox.inside.orders import Handed, Order
from clawplane.sandbox.request import Start, decode_start

CONTROL: Final = 4
"""The number of the control socket in an interpreter."""
_MASK_SIZE: Final = 128
_NOTICE_SIZE: Final = 128


def children_descriptor() -> int:
    """Return a descriptor that becomes readable when a child ends; SIGCHLD must be blocked."""
    mask = (1 << (signal.SIGCHLD - 1)).to_bytes(_MASK_SIZE, "little")
    return libc.call("signalfd", -1, ctypes.c_char_p(mask), os.O_NONBLOCK | os.O_CLOEXEC, what="signalfd")


class PidOne:
    """The loop of one resident's pid 1."""

    def __init__(self, channel: int, children: int) -> None:
        self.channel = channel
        self._children = children
        self._numbers: dict[int, int] = {}

    def serve(self) -> Start:
        """Obey orders until the supervisor is gone; returns in the members only, with what each shall run."""
        poller = select.poll()
        poller.register(self.channel, select.POLLIN)
        poller.register(self._children, select.POLLIN)
        channel = socket.socket(fileno=self.channel)
        while True:
            for descriptor, _events in poller.poll():
                if descriptor == self._children:
                    self._reap()
                elif (start := self._obey(channel)) is not None:
                    channel.detach()
                    return start

    def _obey(self, channel: socket.socket) -> Start | None:
        """Carry out one order; returns in a member, with what it shall run, and None in pid 1."""
        message, received, _flags, _address = socket.recv_fds(channel, orders.LARGEST, orders.MOST_DESCRIPTORS)
        if not message:
            os._exit(0)
        order = orders.decode(message)
        try:
            if order.kind == orders.ADOPT:
                self._adopt(order, received)
            elif order.kind == orders.SIGNAL:
                self._signal(order)
            else:
                given = orders.handed(order, received)
                pid = libc.fork()
                if pid == 0:
                    return _become(given)
                self._know(order.number, pid)
        except OSError as problem:
            report.say(self.channel, report.REFUSED, report.numbered(order.number, gate.sentence(problem)))
        for descriptor in received:
            os.close(descriptor)
        return None

    def _adopt(self, order: Order, cgroups: Sequence[int]) -> None:
        pid = order.detail
        if pid in self._numbers:
            raise OSError(0, f"process {pid} is a member already")
        try:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            raise OSError(0, f"process {pid} is no child of the sandbox's first process") from None
        if ended is not None:
            raise OSError(0, f"process {pid} has ended")
        for descriptor in cgroups:
            os.write(descriptor, b"%d" % pid)
        self._know(order.number, pid)

    def _signal(self, order: Order) -> None:
        with contextlib.suppress(ProcessLookupError):  # pid 1 is alone
            os.kill(-1, order.detail)
        report.say(self.channel, report.SIGNALLED, report.numbered(order.number, b""))

    def _know(self, number: int, pid: int) -> None:
        pidfd = os.pidfd_open(pid)  # it is not reaped, so this is the one
        try:
            report.say(self.channel, report.STARTED, report.encode_started(number, pid), [pidfd])
        finally:
            os.close(pidfd)
        self._numbers[pid] = number

    def _reap(self) -> None:
        try:
            os.read(self._children, 64 * _NOTICE_SIZE)  # who sent it and why is a claim; waiting is not
        except BlockingIOError:
            return
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._numbers.pop(pid, None)
            if number is not None:
                content = report.numbered(number, report.encode_end(status, used))
                report.say(self.channel, report.MEMBER_ENDED, content)


def _become(given: Handed) -> Start:
    """Turn a fresh fork of pid 1 into a member; whatever goes wrong ends it with a sentence at the gate."""
    at_gate = given.gate
    try:
        joining.join(given.cgroups)
        start = decode_start(descriptors.read_whole(given.start))
        descriptors.place([*given.streams, given.gate, *([] if given.control is None else [given.control])])
        at_gate = gate.GATE
        for descriptor in (at_gate, *([] if given.control is None else [CONTROL])):
            os.set_inheritable(descriptor, False)
        os.setsid()
        namespaces.set_dumpable(True)
        joining.go_early(joining.MEMBER)
        signal_mask.change_mask(signal_mask.SET, ())
        os.chdir(start.working_directory)
    except BaseException as problem:
        gate.fail(problem, at_gate)
    return start
