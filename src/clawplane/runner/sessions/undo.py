"""Copies of an interpreter: one is kept from before each of the last execs, and one becomes a branch.

A copy is a fork that the interpreter makes of itself. It waits on a socket of its own until it is resumed or the socket
closes, and then ends by itself. Who it is comes from the kernel: the pid attached to the first thing it says. Until it
is adopted it belongs to what is killed with the original; since a copy is made after every exec and hardly any is used,
those for undo are adopted only when a rollback is about to end the original.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from dataclasses import dataclass

from clawplane.domain.errors import Conflict, Unavailable
from clawplane.runner.sessions.interpreter import Conversation, Gone
from clawplane.runner.sessions.pipes import make_pipes
from clawplane.runner.sessions.residence import Interpreter, Residence
from clawplane.sandbox import credentials
from clawplane.sandbox.readiness import readable
from clawplane.sandbox.repl_wire import HEADER, Purpose, Ready, parse
from clawplane.sandbox.resident import Member, ResidentError

_COPY_SECONDS = 10.0
_LARGEST_READY = 4096


@dataclass(slots=True, eq=False)
class Copy:
    """A waiting copy; `member` once it was adopted."""

    pid: int
    talk: Conversation
    member: Member | None = None


class CannotCopy(Conflict):
    """The interpreter refuses to be copied, for the reason in the message."""

    default_hint = "End the threads of the session's code, then try again."


async def copied(residence: Residence, interpreter: Interpreter, purpose: Purpose) -> Copy:
    """Have an idle interpreter copied; raises CannotCopy, or Gone when it has to be replaced."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    credentials.demand(ours)
    try:
        async with asyncio.timeout(_COPY_SECONDS):
            try:
                answer = await interpreter.talk.copy(purpose, theirs)
            finally:
                theirs.close()
            if answer.refusal:
                raise CannotCopy(f"The interpreter cannot be copied: {answer.refusal[:500]}")
            copy = Copy(await _ready(ours), Conversation(ours))
    except (TimeoutError, ResidentError) as error:
        ours.close()
        raise CannotCopy(f"The interpreter could not be copied: {error or 'it took too long'}.", hint="") from None
    except BaseException:
        ours.close()
        raise
    return copy


async def adopted(residence: Residence, copy: Copy) -> Member:
    """Let a copy outlive its original; raises Unavailable when it has ended."""
    if copy.member is None:
        try:
            copy.member = await residence.resident.adopt(copy.pid)
        except ResidentError as error:
            raise Unavailable(f"The copy of the interpreter is gone: {error}.") from None
    return copy.member


async def _ready(connection: socket.socket) -> int:
    """Return the pid of who says ready."""
    data = b""
    while len(data) < HEADER or len(data) < HEADER + int.from_bytes(data[:HEADER], "little"):
        await readable(connection.fileno())
        block, pid = credentials.receive(connection, _LARGEST_READY - len(data))
        if not block:
            raise ResidentError("the copy has ended, or says too much")
        data += block
    if not isinstance(parse(data[HEADER:]), Ready):
        raise ResidentError("the copy did not begin with ready")
    return pid


async def resumed(residence: Residence, copy: Copy) -> Interpreter:
    """Let a copy become an interpreter with streams of its own; raises Unavailable."""
    member = await adopted(residence, copy)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pipes, out, err = make_pipes()
    talk = Conversation(ours)
    try:
        await copy.talk.resume([out, err, theirs.fileno()])
        await talk.ready()
    except Gone as error:
        talk.close()
        pipes.close()
        raise Unavailable(f"The copy of the interpreter is gone: {error}.") from None
    finally:
        theirs.close()
        for descriptor in (out, err):
            os.close(descriptor)
        copy.talk.close()
    interpreter = Interpreter(member, talk, pipes)
    interpreter.fresh = False
    return interpreter


class Undo:
    """The copies from before the last execs of one session, oldest first."""

    def __init__(self, residence: Residence, most: int) -> None:
        self._residence = residence
        self._most = most
        self._points: deque[tuple[str, Copy | str | None]] = deque()
        """(exec, the copy from before it; None: a fresh interpreter; text: why there is none)"""
        self._next: Copy | str | None = None

    @property
    def wanted(self) -> bool:
        """Tell whether copies are to be made."""
        return self._most > 0

    async def ran(self, exec_id: str, interpreter: Interpreter) -> None:
        """Note that an exec has changed the interpreter, and copy it for the next; raises Gone."""
        if not self.wanted:
            return
        self._points.append((exec_id, self._next))
        if len(self._points) > self._most:
            await self._drop(self._points.popleft()[1])
        try:
            self._next = await copied(self._residence, interpreter, "undo")
        except CannotCopy as refusal:
            self._next = refusal.message

    async def back(self, execs: int, before: str) -> tuple[Copy | None, int]:
        """Return the copy to go on with (None: a fresh interpreter) and how many execs are undone.

        The points after it are dropped. Raises Conflict, with the reason, when there is none.
        """
        ids = [exec_id for exec_id, _ in self._points]
        if before and before not in ids:
            raise Conflict(
                f"There is no copy from before the exec {before}.",
                hint=f"Only the last {self._most} Python execs since the last reset can be undone (option `undo`).",
            )
        at = ids.index(before) if before else len(ids) - execs
        if execs < 1 or at < 0:
            raise Conflict(
                f"Only {len(ids)} Python execs can be undone.",
                hint=f"The session keeps copies from before its last {self._most} (option `undo`).",
            )
        found = self._points[at][1]
        if isinstance(found, str):
            raise Conflict(f"There is no copy from before that exec: {found}", hint="")
        for _, copy in list(self._points)[: at + 1]:
            if isinstance(copy, Copy):
                with contextlib.suppress(Unavailable):
                    await adopted(self._residence, copy)
        later = [self._points.pop()[1] for _ in range(len(ids) - at)]
        for copy in [*later[:-1], self._next]:
            await self._drop(copy)
        self._next = "the copy was used up by a rollback"
        return found, len(later)

    async def renew(self, interpreter: Interpreter | None) -> None:
        """Begin anew from this interpreter after a rollback; None: from a fresh one. Raises Gone."""
        self._next = None
        if interpreter is not None and self.wanted:
            try:
                self._next = await copied(self._residence, interpreter, "undo")
            except CannotCopy as refusal:
                self._next = refusal.message

    async def clear(self) -> None:
        """End all copies."""
        copies = [*(copy for _, copy in self._points), self._next]
        self._points.clear()
        self._next = None
        for copy in copies:
            await self._drop(copy)

    async def _drop(self, copy: Copy | str | None) -> None:
        if isinstance(copy, Copy):
            copy.talk.close()
            if copy.member is not None:
                await self._residence.resident.kill_tree(copy.member)
