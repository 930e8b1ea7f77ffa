"""Wait in asyncio until a descriptor can be read or written."""

from __future__ import annotations

import asyncio


async def readable(descriptor: int) -> None:
    """Return when `descriptor` has something to read, is closed at its other end, or (a pidfd) its process ended."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.add_reader(descriptor, _settle, done)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Return when `descriptor` takes data or is closed at its other end."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.add_writer(descriptor, _settle, done)
    try:
        await done
    finally:
        loop.remove_writer(descriptor)


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
