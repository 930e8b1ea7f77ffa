"""Talk with one Python interpreter of a session: requests out, frames in, descriptors along.

Everything that comes in is a claim of code that shares a process with the user's: its shape is checked, frames of
another request are strays and dropped, and the first frame that breaks the protocol ends the interpreter. How much an
interpreter may say is bounded by the caller through `hear`; what is over that is read and dropped unparsed. Large
frames are parsed in a thread, so that no guest holds up the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from clawplane.sandbox import repl_wire
from clawplane.sandbox.repl_wire import (
    DESCRIPTORS,
    FROM_GUEST,
    MAIN,
    Calmed,
    Cleared,
    Copied,
    Done,
    Forgotten,
    Frames,
    FromGuest,
    Kept,
    MalformedFrame,
    Named,
    Purpose,
    Ready,
    Shown,
)

READY_SECONDS: Final = 20.0
_BLOCK: Final = 256 << 10
_PARSED_HERE: Final = 128 << 10
_ALWAYS_PARSED: Final = 4 << 20
"""A frame that ends a request is parsed up to this size, whatever was said before it."""

_T = TypeVar("_T", bound=FromGuest)


class Gone(Exception):
    """The interpreter has ended, or does not speak our language any more; it must be replaced."""


class Conversation:
    """One control socket. One request is outstanding at a time; the caller sees to that."""

    def __init__(self, channel: socket.socket) -> None:
        """Own `channel`, our end of a stream socket pair."""
        channel.setblocking(False)
        self._channel = channel
        self._frames = Frames(FROM_GUEST)
        self._bodies: deque[bytes] = deque()
        self._numbers = itertools.count(1)
        self._nonce = secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Hang up; an interpreter ends by that when it next looks."""
        self._channel.close()

    async def ready(self) -> Ready:
        """Wait until the first request can be taken; raises Gone."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                frame = await self._next(lambda size: True)
        except TimeoutError:
            raise Gone("the interpreter was not ready in time") from None
        if not isinstance(frame, Ready):
            raise Gone("the interpreter did not begin with ready")
        return frame

    async def run(
        self, code: str, context: str, hear: Callable[[Shown | Cleared], None], admit: Callable[[int], bool]
    ) -> Done:
        """Run code. `hear` gets what it shows; `admit` says of a frame of so many bytes whether it is still wanted.

        Raises Gone, and ValueError when the code is too long.
        """
        number = await self._ask("run", code=code, context=context)
        while True:
            frame = await self._next(admit)
            if not self._belongs(frame, number):
                continue
            if isinstance(frame, Done):
                return frame
            if isinstance(frame, Shown | Cleared):
                hear(frame)

    async def copy(self, purpose: Purpose, theirs: socket.socket) -> Copied:
        """Let the interpreter fork a copy of itself that listens to the other end of `theirs`."""
        return await self._answered(Copied, "copy", [theirs.fileno()], purpose=purpose)

    async def resume(self, descriptors: Sequence[int]) -> None:
        """Wake this copy with new streams (out, err, control); it then says ready on the new control socket."""
        await self._ask("resume", descriptors)

    async def names(self) -> Named:
        """Return the variables of the main context."""
        return await self._answered(Named, "names", context=MAIN)

    async def forget(self, context: str) -> None:
        """Drop a context with all that is in it."""
        await self._answered(Forgotten, "forget", context=context)

    async def calm(self) -> None:
        """Make sure that an interrupt which came too late strikes nothing."""
        await self._answered(Calmed, "calm")

    async def save(self, file: int, *, largest: int, seconds: float, room: int) -> Kept:
        """Write the variables to an open file: none of more than `largest` bytes, `room` bytes in all."""
        return await self._answered(Kept, "save", [file], largest=largest, seconds=seconds, room=room)

    async def restore(self, file: int) -> Kept:
        """Read the variables from an open file."""
        return await self._answered(Kept, "restore", [file])

    async def _answered(
        self, kind: type[_T], op: repl_wire.Op, descriptors: Sequence[int] = (), **members: str | float
    ) -> _T:
        number = await self._ask(op, descriptors, **members)
        while True:
            frame = await self._next(lambda size: size <= _ALWAYS_PARSED)
            if isinstance(frame, kind) and self._belongs(frame, number):
                return frame

    async def _ask(self, op: repl_wire.Op, descriptors: Sequence[int] = (), **members: str | float) -> str:
        number = str(next(self._numbers))
        frame = repl_wire.request(op, number, self._nonce, **members)
        try:
            await self._loop.sock_sendall(self._channel, frame)
            if descriptors:
                socket.send_fds(self._channel, [DESCRIPTORS], list(descriptors))
        except OSError as error:
            raise Gone(f"the interpreter hears nothing: {error.strerror}") from None
        return number

    def _belongs(self, frame: FromGuest, number: str) -> bool:
        return not isinstance(frame, Ready) and frame.id == number and frame.nonce == self._nonce

    async def _next(self, admit: Callable[[int], bool]) -> FromGuest:
        """Return the next frame that is wanted."""
        try:
            while True:
                while not self._bodies:
                    block = await self._loop.sock_recv(self._channel, _BLOCK)
                    if not block:
                        raise Gone("the interpreter has closed its control socket")
                    self._bodies.extend(self._frames.feed(block))
                body = self._bodies.popleft()
                if not admit(len(body)):
                    await asyncio.sleep(0)
                elif len(body) <= _PARSED_HERE:
                    return repl_wire.parse(body)
                else:
                    return await asyncio.to_thread(repl_wire.parse, body)
        except MalformedFrame as error:
            raise Gone(f"the interpreter breaks the protocol: {error}") from None
        except OSError as error:
            raise Gone(f"the interpreter says nothing more: {os.strerror(error.errno or 0)}") from None
