"""What ports.Wakeups promises."""

from __future__ import annotations

import asyncio
from typing import Any

LONG = 30.0


async def test_a_notify_wakes_everybody_who_listens_to_the_channel(bench: Any) -> None:
    wakeups = bench.store.wakeups
    listeners = [wakeups.listen("queue") for _ in range(3)]
    waiting = [asyncio.create_task(listener.wait(LONG)) for listener in listeners]
    await asyncio.sleep(0)
    wakeups.notify("queue")
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_a_notify_between_two_waits_is_not_lost(bench: Any) -> None:
    listener = bench.store.wakeups.listen("queue")
    bench.store.wakeups.notify("queue")
    assert await listener.wait(LONG)


async def test_several_notifies_since_the_last_wait_wake_once(bench: Any) -> None:
    listener = bench.store.wakeups.listen("queue")
    bench.store.wakeups.notify("queue")
    bench.store.wakeups.notify("queue")
    assert await listener.wait(LONG)
    assert not await listener.wait(0)


async def test_a_wait_without_a_notify_ends_after_its_time(bench: Any) -> None:
    listener = bench.store.wakeups.listen("queue")
    assert not await listener.wait(0.001)


async def test_other_channels_and_earlier_notifies_do_not_wake(bench: Any) -> None:
    bench.store.wakeups.notify("queue")
    listener = bench.store.wakeups.listen("queue")
    bench.store.wakeups.notify("another")
    assert not await listener.wait(0)


async def test_a_closed_listener_is_woken_to_hear_that_and_never_again(bench: Any) -> None:
    listener = bench.store.wakeups.listen("queue")
    waiting = asyncio.create_task(listener.wait(LONG))
    await asyncio.sleep(0)
    listener.close()
    listener.close()
    assert not await waiting
    bench.store.wakeups.notify("queue")
    assert not await listener.wait(LONG)


async def test_a_cancelled_wait_leaves_its_notify_to_the_next(bench: Any) -> None:
    listener = bench.store.wakeups.listen("queue")
    waiting = asyncio.create_task(listener.wait(LONG))
    await asyncio.sleep(0)
    bench.store.wakeups.notify("queue")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await listener.wait(0)


async def test_what_tells_of_a_notify_leaves_it_to_a_wait(bench: Any) -> None:
    listener = bench.store.wakeups.listen("queue")
    told = listener.told()
    assert not told.done()
    bench.store.wakeups.notify("queue")
    await told
    assert listener.told().done()
    assert await listener.wait(0)
    assert not listener.told().done()
    listener.close()
    assert listener.told().done()
