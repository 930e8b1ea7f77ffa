"""Copies of an interpreter: forks that it makes of itself, waiting to be used.

A copy waits on a socket of its own until it is resumed or the socket closes, and then ends by itself. Who it is comes
from the kernel: the pid attached to the first thing it says. Until it is adopted it belongs to what is killed with the
original; since many are made and hardly any is used, that is left until one is about to be.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from clawplane.domain.errors import Conflict, Unavailable
from clawplane.runner.sessions.interpreter import Conversation, Gone
from clawplane.runner.sessions.pipes import make_pipes
from clawplane.runner.sessions.residence import Interpreter, Residence
from clawplane.sandbox import credentials
from clawplane.sandbox.readiness import readable
from clawplane.sandbox.repl_wire import HEADER, MalformedFrame, Purpose, Ready, parse
from clawplane.sandbox.resident import Member, ResidentError

_COPY_SECONDS: Final = 10.0
_LARGEST_READY: Final = 4096


class CannotCopy(Conflict):
    """The interpreter refuses to be copied, for the reason in the message."""

    default_hint = "End the threads of the session's code, then try again."


class Copy:
    """A waiting copy in a residence."""

    def __init__(self, residence: Residence, waiting: socket.socket) -> None:
        """Own `waiting`, our end of the copy's socket."""
        self._residence = residence
        self._waiting: socket.socket | None = waiting
        self._talk: Conversation | None = None
        self._member: Member | None = None

    async def adopt(self) -> None:
        """Let the copy outlive its original; raises Unavailable when it has ended."""
        if self._member is not None or self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        try:
            async with asyncio.timeout(_COPY_SECONDS):
                self._member = await self._residence.resident.adopt(await _first_word(waiting))
        except (TimeoutError, ResidentError, MalformedFrame, OSError) as error:
            waiting.close()
            raise Unavailable(f"The copy of the interpreter is gone: {error or 'it says nothing'}.") from None
        except BaseException:
            waiting.close()
            raise
        self._talk = Conversation(waiting)

    async def resume(self) -> Interpreter:
        """Make it an interpreter with streams of its own; raises Unavailable. The copy is used up by that."""
        await self.adopt()
        if self._talk is None or self._member is None:
            raise Unavailable("The copy of the interpreter is gone.")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pipes, out, err = make_pipes()
        talk = Conversation(ours)
        try:
            try:
                await self._talk.resume([out, err, theirs.fileno()])
            finally:  # the copy alone holds its ends now, so we hear when it ends
                theirs.close()
                for descriptor in (out, err):
                    os.close(descriptor)
            await talk.ready()
        except Gone as error:
            talk.close()
            pipes.close()
            raise Unavailable(f"The copy of the interpreter is gone: {error}.") from None
        except BaseException:  # whoever asked has left meanwhile
            talk.close()
            pipes.close()
            raise
        finally:
            self._talk.close()
            self._talk = None
        interpreter = Interpreter(self._member, talk, pipes)
        interpreter.fresh = False
        return interpreter

    async def drop(self) -> None:
        """End it."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        if self._talk is not None:
            self._talk.close()
            self._talk = None
            if self._member is not None:
                await self._residence.resident.kill_tree(self._member)


async def copied(residence: Residence, interpreter: Interpreter, purpose: Purpose) -> Copy:
    """Have an idle interpreter copied; raises CannotCopy, or Gone when it has to be replaced."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    credentials.demand(ours)
    try:
        async with asyncio.timeout(_COPY_SECONDS):
            answer = await interpreter.talk.copy(purpose, theirs)
    except TimeoutError:
        ours.close()
        raise Gone("it was not copied in time") from None
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    if answer.refusal:
        ours.close()
        raise CannotCopy(f"The interpreter cannot be copied: {answer.refusal[:500]}.")
    return Copy(residence, ours)


async def _first_word(connection: socket.socket) -> int:
    """Return the pid of who says ready."""
    data = b""
    while len(data) < HEADER or len(data) < HEADER + int.from_bytes(data[:HEADER], "little"):
        await readable(connection.fileno())
        block, pid = credentials.receive(connection, _LARGEST_READY - len(data))
        if not block:
            raise ResidentError("it has ended, or says too much")
        data += block
    if not isinstance(parse(data[HEADER:]), Ready):
        raise ResidentError("it did not begin with ready")
    return pid
