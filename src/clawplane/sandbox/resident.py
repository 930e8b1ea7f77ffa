"""Follow a sandbox whose first process is ours and stays: start members in it, signal and end them one by one.

Theory of operation
- The resident is a guest like any other (guest.py), whose pid 1 obeys orders (inside/resident.py) instead of waiting
  for one main process. Orders and reports share the one socket; a number ties a report to its order.
- A start is over when the gate closes: by exec, or right before user code. Only then does the caller get the member,
  so a program that does not exist is an error of `execute` and not an exit code.
- Which processes belong to a member is the kernel's knowledge, not a guess by parents, which a double fork defeats:
  each member is born into a cgroup of its own inside the resident's, that no guest can leave. It is killed in one
  stroke from outside, however busy the sandbox is, and is gone when the kernel says that it is empty. Subreapers in
  place of it would cost a process per member and would catch the copies an interpreter makes of itself.
- Without cgroups a part of the tree over /proc takes its place (polled_tree.PolledPart), which may end too much. A
  fork that pid 1 has not reported yet looks like an orphan there, so nothing is born while a part is struck.
- An adopted copy is moved to a cgroup of its own by pid 1, its parent, before anybody asks it for anything.
- The kernel kills members before pid 1 when memory is out; the counter of such kills tells why a member died.
  When pid 1 itself falls, the verdict on the resident is `memory`.
- A frozen resident is thawed by whatever needs pid 1 to act. Without a freezer pid 1 itself stops the others; one that
  has a timer send it SIGCONT may go on, which costs processor time that its limits bound, and reaches nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Final

from clawplane.sandbox.cgroups import Group, Usage
from clawplane.sandbox.guest import GuestProcess, inner_pid, pid_of
from clawplane.sandbox.identity import Identity
from clawplane.sandbox.inside import orders, report
from clawplane.sandbox.inside.orders import Order
from clawplane.sandbox.member import Member, MemberEnd, MemberReason, Part, close_all, make_part, strike
from clawplane.sandbox.ordering import Ordering, ResidentError
from clawplane.sandbox.policy import EndReason, Policy, Verdict
from clawplane.sandbox.polled_tree import ticks
from clawplane.sandbox.readiness import readable
from clawplane.sandbox.request import Command, Interpreter, Program, Start, encode_mounts, encode_start, memory_file
from clawplane.sandbox.zygote import Recipe

__all__ = ["Member", "MemberEnd", "Resident", "ResidentError"]

REPL: Final = "clawplane.sandbox.inside.repl.main:main"
_START_SECONDS: Final = 30.0
_KILL_SECONDS: Final = 10.0
_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.05


class Resident(GuestProcess):
    """A sandbox that stays until it is closed, and the processes started in it."""

    def __init__(
        self,
        policy: Policy,
        channel: socket.socket,
        group: Group,
        executor: Executor,
        *,
        identity: Identity,
        recipe: Recipe,
        waits: bool = False,
    ) -> None:
        """Use `Sandbox.open_resident` or `Sandbox.begin_resident`."""
        super().__init__(policy, {}, channel, group, executor)
        self._identity = identity
        self._recipe = recipe
        self._waits = waits
        self._orders = Ordering(channel)
        self._members: dict[int, Member] = {}
        """The living ones, by number."""
        self._left_over: list[Part] = []
        self._host_pids: set[int] = set()
        self._births = asyncio.Lock()
        self._frozen = False
        self._oom_kills_seen = 0

    async def move_in(
        self, policy: Policy, *, meanwhile: Callable[[Resident], None] = lambda resident: None
    ) -> Resident:
        """Finish a resident that was only begun, with more mounts and another environment than it was begun with.

        `meanwhile` as in `Sandbox.open_resident`. Raises ResidentError with the reason when it cannot be finished, and
        ValueError when `policy` differs in more than that: everything else stands already.
        """
        if replace(policy, mounts=self._policy.mounts, environment=self._policy.environment) != self._policy:
            raise ValueError("a resident that was begun can only be given more mounts and another environment")
        later = tuple(each for each in policy.mounts if each not in self._policy.mounts)
        self._policy, self._waits = policy, False
        self.submitted()
        content = memory_file(encode_mounts(later))
        try:
            await self._orders.send(Order(orders.FURNISH, 0, 0), [content])
        finally:
            os.close(content)
        meanwhile(self)
        return await self.standing()

    async def standing(self) -> Resident:
        """Return this when members can be started; raises ResidentError with the reason when they never will be."""
        try:
            verdict = await self.ready()
        except BaseException:
            self.kill()
            raise
        if verdict is not None:
            raise ResidentError(verdict.detail or f"the sandbox ended in set-up: {verdict.reason}")
        return self

    async def fork_python(
        self,
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        control: int,
        environment: Mapping[str, str],
        working_directory: str,
        entry_point: str = REPL,
    ) -> Member:
        """Fork pid 1's warm interpreter and call `entry_point` with its end of the control socket in the fork.

        The descriptors stay the caller's to close. Raises ResidentError.
        """
        recipe = self._recipe
        program = Interpreter(entry_point, recipe.python, recipe.site_directories)
        start = self._start_of(program, environment, working_directory)
        return await self._start(start, (stdin, stdout, stderr), control)

    async def execute(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        environment: Mapping[str, str],
        working_directory: str,
    ) -> Member:
        """Start a program; argv[0] is looked up in the PATH of `environment`.

        The descriptors stay the caller's to close. Raises ResidentError, also for a program that cannot be executed.
        """
        if not argv:
            raise ValueError("argv is empty: name the program to run")
        start = self._start_of(Command(tuple(argv)), environment, working_directory)
        return await self._start(start, (stdin, stdout, stderr), None)

    async def adopt(self, host_pid: int) -> Member:
        """Follow a copy that an interpreter made of itself by a double fork; from now on it ends by itself.

        host_pid comes from the kernel (credentials.receive) over a socket given to the copy. Raises ResidentError when
        that process is not a living child of pid 1 that is no member yet.
        """
        inner = await self._loop.run_in_executor(self._executor, inner_pid, host_pid)
        if not inner:
            raise ResidentError(f"process {host_pid} has ended")
        part, joined = await self._gather()
        try:
            member = await self._order(orders.ADOPT, inner, joined, part)
        finally:
            close_all(joined)
        if member.host_pid != host_pid:
            member.send(signal.SIGKILL)  # an orphan of ours has the inner pid of somebody else's process
            raise ResidentError(f"process {host_pid} is not in this sandbox")
        return member

    def signal(self, member: Member, number: int) -> None:
        """Send a signal to the member's own process, and to no other."""
        member.send(number)

    async def interrupt(self, member: Member) -> None:
        """Send SIGINT to the member's own process: the code it runs sees KeyboardInterrupt."""
        await self._wake()
        member.send(signal.SIGINT)

    async def kill_tree(self, member: Member) -> None:
        """End the member and everything that descends from it; returns when all of it is gone.

        Safe to call for a member that has ended, to end what it left behind. A tree that cannot be ended takes the
        whole resident with it.
        """
        member.being_killed = True
        await self._wake()
        pause = _FIRST_PAUSE
        deadline = self._loop.time() + _KILL_SECONDS
        while member.part is not None and not await self._struck(member.part):
            if self._loop.time() > deadline:
                self._kill("aborted")
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        await member.wait()

    async def freeze(self) -> None:
        """Stop every process of the resident until `thaw`, or until something else is asked of it."""
        self._frozen = True
        await self._stand(self._group.freeze, signal.SIGSTOP)

    async def thaw(self) -> None:
        """Let a frozen resident go on."""
        self._frozen = False
        await self._stand(self._group.thaw, signal.SIGCONT)

    @property
    def frozen(self) -> bool:
        """Tell whether it is frozen now."""
        return self._frozen

    def usage(self) -> Usage:
        """Measure what the whole tree used so far; all 0 when it is gone."""
        return self._group.usage()

    def oom_kills(self) -> int:
        """Return how many processes of the tree were killed for memory so far."""
        return self._group.oom_kills()

    def refused_forks(self) -> int:
        """Return how often the process limit refused a fork so far; 0 where nobody counts."""
        return self._group.refused_forks()

    async def close(self) -> Verdict:
        """End everything in the resident; safe to call twice."""
        self._kill("aborted")
        return await self.wait()

    def watch(self) -> EndReason | None:
        """Keep memory within bounds where the kernel does not; a resident is not ended for what its members do."""
        if self._group.polled and not self._frozen:
            self._group.relieve()
        return None

    def _set_up_too_slow(self) -> None:
        if not (self._waits and self.prepared.done()):
            super()._set_up_too_slow()

    def _start_of(self, program: Program, environment: Mapping[str, str], directory: str) -> Start:
        return Start(program, {**self._policy.environment, **environment}, directory)

    async def _start(self, start: Start, streams: Sequence[int], control: int | None) -> Member:
        for descriptor in streams:
            _hand_over(descriptor, self._identity)
        part, joined = await self._gather()
        at_gate, gate_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(gate_end, True)
        content = memory_file(encode_start(start))
        handed = [content, gate_end, *streams, *([] if control is None else [control]), *joined]
        try:
            try:
                member = await self._order(orders.START, int(control is not None), handed, part)
            finally:
                close_all([content, gate_end, *joined])
            await self._pass_gate(at_gate, member)
        finally:
            os.close(at_gate)
        return member

    async def _pass_gate(self, at_gate: int, member: Member) -> None:
        """Wait until the member runs user code; raises ResidentError with its words when it does not."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                await readable(at_gate)
            problem = os.read(at_gate, report.LARGEST).decode(errors="replace")
        except TimeoutError:
            problem = f"it did not start within {_START_SECONDS:.0f} s"
        except BaseException:
            member.send(signal.SIGKILL)  # whoever called has gone away
            raise
        if problem:
            await self.kill_tree(member)
            raise ResidentError(problem)

    async def _stand(self, by_freezer: Callable[[], None], number: int) -> None:
        """Let everybody stop or go on: by the freezer, or by pid 1, which stops only at the end of the sandbox."""
        if self._group.freezes:
            await self._loop.run_in_executor(self._executor, by_freezer)
            return
        order = Order(orders.SIGNAL, self._orders.number(), number)
        try:
            self._must_live()
            with self._orders.expected(order.number) as answer:
                await self._orders.send(order)
                await answer
        except ResidentError:
            if self.alive:
                raise  # else nobody is left to stop

    async def _order(self, kind: bytes, detail: int, descriptors: Sequence[int], part: Part | None) -> Member:
        """Give one order and wait for the member it leads to."""
        await self._wake()
        number, since = self._orders.number(), ticks()
        with self._orders.expected(number) as answer:
            try:
                self._must_live()
                async with self._without_births():
                    await self._orders.send(Order(kind, number, detail), descriptors)
                    member: Member = await answer
            except BaseException:
                if answer.done() and not answer.cancelled() and answer.exception() is None:
                    answer.result().send(signal.SIGKILL)  # it came while whoever asked was going away
                if part is not None:
                    self._left_over.append(part)
                raise
        member.part = part or self._walked(member, since)
        return member

    def _hear(self, kind: bytes, content: bytes, descriptors: Sequence[int]) -> None:
        if kind == report.STARTED:
            self._note_start(*report.decode_started(content), descriptors[0])
            return
        number, rest = report.split_number(content)
        if kind == report.REFUSED:
            if answer := self._orders.waits_for(number):
                answer.set_exception(ResidentError(rest.decode(errors="replace")))
        elif kind == report.SIGNALLED:
            if answer := self._orders.waits_for(number):
                answer.set_result(None)
        elif kind == report.MEMBER_ENDED:
            self._note_end(number, report.decode_end(rest))
        else:
            super()._hear(kind, content, descriptors)

    def _note_start(self, number: int, pid: int, pidfd: int) -> None:
        member = self._members[number] = Member(number, pid, pid_of(pidfd), pidfd)
        self._host_pids.add(member.host_pid)
        if answer := self._orders.waits_for(number):
            answer.set_result(member)
        else:
            member.send(signal.SIGKILL)  # whoever asked has gone away

    def _note_end(self, number: int, ended: report.Ended) -> None:
        member = self._members.pop(number)
        self._host_pids.discard(member.host_pid)
        reason: MemberReason = "exit" if ended.signal is None else "signal"
        if ended.signal == signal.SIGKILL:
            kills, seen = self._group.oom_kills(), self._oom_kills_seen
            self._oom_kills_seen = kills
            reason = "killed" if member.being_killed else "memory" if kills > seen else reason
        member.settle(MemberEnd(reason, ended.exit_code, ended.signal, ended.cpu_ms, ended.peak_memory))
        if member.part is not None:
            self._left_over.append(member.part)

    async def _gather(self) -> tuple[Part | None, list[int]]:
        """Make what a new member is gathered in, and return it with the files that let it join."""
        self._must_live()
        left_over, self._left_over = self._left_over, []
        name = f"member-{self._orders.number()}"
        try:
            part, joined, busy = await self._loop.run_in_executor(
                self._executor, make_part, self._group, name, left_over
            )
        except OSError as problem:
            self._must_live()
            raise ResidentError(f"no cgroup for another process: {problem.strerror}") from problem
        self._left_over += busy
        return part, joined

    def _must_live(self) -> None:
        if self._waits:
            raise ResidentError("nobody has moved in yet")
        if not self.alive or self._ended is not None:
            raise ResidentError("the sandbox has ended")

    async def _struck(self, part: Part) -> bool:
        async with self._without_births():
            return await self._loop.run_in_executor(self._executor, strike, part)

    def _without_births(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Let one thing at a time make or strike processes, where who belongs together is found by looking."""
        return self._births if self._group.tree is not None else contextlib.nullcontext()

    def _walked(self, member: Member, since: int) -> Part | None:
        tree = self._group.tree
        return tree.part(member.host_pid, since, self._host_pids) if tree is not None else None

    async def _wake(self) -> None:
        if self._frozen:
            await self.thaw()

    def _end(self, cause: EndReason) -> None:
        self._kill(cause)  # there is nobody in pid 1 to be asked

    def _kill(self, cause: EndReason) -> None:
        super()._kill(cause)
        if self._frozen:  # the freezer of v1 holds back even SIGKILL
            self._frozen = False
            self._loop.run_in_executor(self._executor, self._group.thaw)

    def _settle(self, verdict: Verdict) -> None:
        self._orders.fail(f"the sandbox has ended: {verdict.detail or verdict.reason}")
        reason: MemberReason = "memory" if verdict.reason == "memory" else "lost"
        for member in self._members.values():
            member.settle(MemberEnd(reason, signal=signal.SIGKILL))
        self._members.clear()
        super()._settle(verdict)


def _hand_over(descriptor: int, identity: Identity) -> None:
    """Make a pipe the guest's own: /dev/stdout opens it anew, by owner and mode."""
    if os.geteuid() == 0 and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.fchown(descriptor, *identity.owner)
