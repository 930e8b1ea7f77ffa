"""Look names up for the proxy: on threads of its own, bounded in time and number, with a short memory.

The system's resolver blocks and takes as long as its servers take. So it is called on a few threads that serve nothing
else, questions for the same name share one call, and an answer is kept for half a minute: the system's interface tells
no lifetime. An answer is only ever a list of addresses to judge; who connects, connects to one of them, so a name that
answers differently a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Final

from clawplane.egress.addresses import Address

Lookup = Callable[[str], tuple[Address, ...]]

KEPT_SECONDS: Final = 30.0
FAILURE_KEPT_SECONDS: Final = 2.0
LOOKUP_SECONDS: Final = 10.0
KEPT_NAMES: Final = 1024
LOOKUPS: Final = 16
WAITING: Final = 256


class CannotResolve(OSError):
    """A name has no address, or its servers did not answer."""


def system_lookup(name: str) -> tuple[Address, ...]:
    """Ask the system's resolver; blocks. Raises OSError."""
    found = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found))


class Resolver:
    """The names of one runner; shared by all its relays."""

    def __init__(
        self,
        lookup: Lookup = system_lookup,
        *,
        seconds: float = LOOKUP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._seconds = seconds
        self._clock = clock
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="resolver")
        self._known: OrderedDict[str, tuple[float, tuple[Address, ...]]] = OrderedDict()
        self._asked: dict[str, asyncio.Future[tuple[Address, ...]]] = {}

    async def addresses(self, name: str) -> tuple[Address, ...]:
        """Return the addresses of a name, at least one; raises CannotResolve, TimeoutError."""
        known = self._known.get(name)
        if known is None or known[0] <= self._clock():
            async with asyncio.timeout(self._seconds):
                found = await asyncio.shield(self._ask(name))
        else:
            found = known[1]
        if not found:
            raise CannotResolve("the name has no address")
        return found

    async def close(self) -> None:
        """Give up on what was asked; threads that still wait for a server end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        asked = list(self._asked.values())
        for future in asked:
            future.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    def _ask(self, name: str) -> asyncio.Future[tuple[Address, ...]]:
        if name not in self._asked:
            if len(self._asked) >= WAITING:
                raise CannotResolve("too many names are being looked up")
            future = asyncio.ensure_future(self._answer(name))
            self._asked[name] = future
            future.add_done_callback(lambda _: self._asked.pop(name, None))
        return self._asked[name]

    async def _answer(self, name: str) -> tuple[Address, ...]:
        found: tuple[Address, ...] = ()
        with contextlib.suppress(OSError, ValueError):
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, name)
        self._known[name] = (self._clock() + (KEPT_SECONDS if found else FAILURE_KEPT_SECONDS), found)
        self._known.move_to_end(name)
        while len(self._known) > KEPT_NAMES:
            self._known.popitem(last=False)
        return found
