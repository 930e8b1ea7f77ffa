"""Give orders to the pid 1 of a resident, and let whoever waits for one hear what became of it."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from clawplane.sandbox.inside import orders
from clawplane.sandbox.inside.orders import Order
from clawplane.sandbox.readiness import writable


class ResidentError(Exception):
    """What was asked of a resident cannot be; the sentence says why."""


class Ordering:
    """The orders of one resident (inside/orders.py), sent one at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._sending = asyncio.Lock()

    def number(self) -> int:
        """Return a number that no order had before."""
        return next(self._numbers)

    @contextmanager
    def expected(self, number: int) -> Iterator[asyncio.Future[Any]]:
        """Make what is settled when pid 1 reports on an order; nobody waits for it any more afterwards."""
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            yield answer
        finally:
            del self._waiting[number]

    def waits_for(self, number: int) -> asyncio.Future[Any] | None:
        """Return what is to be settled by a report, if somebody still waits for it."""
        answer = self._waiting.get(number)
        return None if answer is None or answer.done() else answer

    def fail(self, sentence: str) -> None:
        """Let everybody who waits hear a ResidentError: there will be no more reports."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ResidentError(sentence))

    async def send(self, order: Order, descriptors: Sequence[int] = ()) -> None:
        """Say an order; raises ResidentError when nobody is there to hear it."""
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._channel, [orders.encode(order)], list(descriptors))
                except BlockingIOError:
                    await writable(self._channel.fileno())
                except OSError as problem:
                    raise ResidentError(f"the sandbox has ended ({problem.strerror})") from None
                else:
                    return
