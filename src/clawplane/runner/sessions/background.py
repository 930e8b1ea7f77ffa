"""Programs that a shell command left running: their output goes nowhere, but never makes them wait or die of it."""

from __future__ import annotations

import asyncio
from typing import Final

from clawplane.runner.sessions.pipes import Pipes
from clawplane.runner.sessions.residence import Residence
from clawplane.sandbox.resident import Member

_PAUSE: Final = 0.25
"""Seconds between two looks; what is printed meanwhile fills the pipe, so this is also a limit on how fast."""


class Background:
    """What one session's commands left behind."""

    def __init__(self, residence: Residence) -> None:
        self._residence = residence
        self._left: dict[Member, Pipes] = {}
        self._draining: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._left)

    def add(self, member: Member, pipes: Pipes) -> None:
        """Take over what may live on after a command ended; closes the pipes at once when nothing does."""
        if not _lives(member):
            pipes.close()
            return
        self._left[member] = pipes
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())

    async def end(self) -> None:
        """End all of it."""
        await self.let_go()
        left, self._left = self._left, {}
        await asyncio.gather(*(self._residence.resident.kill_tree(member) for member in left), return_exceptions=True)
        for pipes in left.values():
            pipes.close()

    async def let_go(self) -> None:
        """Look after it no more."""
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.gather(self._draining, return_exceptions=True)
            self._draining = None

    async def _drain(self) -> None:
        while self._left:
            await asyncio.sleep(_PAUSE)
            for member, pipes in list(self._left.items()):
                pipes.take_rest(lambda stream, block: None)
                if not self._residence.resident.frozen and not _lives(member):
                    pipes.close()
                    del self._left[member]


def _lives(member: Member) -> bool:
    try:
        return member.part is not None and member.part.populated()
    except OSError:
        return False  # its group is gone
