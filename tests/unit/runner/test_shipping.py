"""What an attempt produces leaves in numbered, bounded batches."""

from __future__ import annotations

import asyncio

import pytest

from clawplane.domain.batches import ERROR, INFO, ShippedRow
from clawplane.domain.clock import ManualClock
from clawplane.domain.runs import HeaderItem
from clawplane.runner.redact import Redactor
from clawplane.runner.room import Room
from clawplane.runner.shipping import FLUSH_BYTES, LeaseLost, Shipper


class Wire:
    """Takes batches like a link."""

    def __init__(self) -> None:
        self.batches: list[tuple[list, list, object]] = []
        self.came = asyncio.Event()
        self.lost = False

    def __call__(self, rows, logs, header) -> int | None:
        if self.lost:
            return None
        self.batches.append((list(rows), list(logs), header))
        self.came.set()
        return len(self.batches)

    async def next(self) -> tuple[list, list, object]:
        self.came.clear()
        async with asyncio.timeout(30):
            await self.came.wait()
        return self.batches[-1]


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def room() -> Room:
    return Room(10_000)


@pytest.fixture
async def shipper(wire: Wire, room: Room) -> Shipper:
    made = Shipper(wire, room=room, clock=ManualClock(), redactor=Redactor(["secret-token"]), log_bytes=2_000_000)
    made.open()
    return made


def row(size: int = 10) -> ShippedRow:
    return ShippedRow(b"x" * size)


async def test_entries_of_one_moment_leave_in_one_batch(shipper: Shipper, wire: Wire) -> None:
    for _ in range(3):
        await shipper.row(row())
    await shipper.output(INFO, "line", "stdout")
    rows, logs, _ = await wire.next()
    assert (len(rows), len(logs), len(wire.batches)) == (3, 1, 1)


async def test_a_full_batch_leaves_at_once(wire: Wire) -> None:
    shipper = Shipper(wire, room=Room(1 << 30), clock=ManualClock(), redactor=Redactor([]))
    shipper.open()
    await shipper.row(row(FLUSH_BYTES))
    assert len(wire.batches) == 1


async def test_nothing_leaves_before_the_lease_is_confirmed(wire: Wire, room: Room) -> None:
    shipper = Shipper(wire, room=room, clock=ManualClock(), redactor=Redactor([]))
    shipper.say("preparing")
    shipper.flush()
    assert wire.batches == []
    shipper.open()
    assert [line.content for line in (await wire.next())[1]] == ["preparing"]


async def test_a_guest_waits_while_there_is_no_room_and_goes_on_when_batches_are_stored(
    shipper: Shipper, wire: Wire, room: Room
) -> None:
    await shipper.row(row(9_000))
    second = asyncio.create_task(shipper.row(row(9_000)))
    await wire.next()
    assert not second.done()
    shipper.stored(1)
    async with asyncio.timeout(30):
        await second
    await wire.next()
    shipper.stored(2)
    assert room.used == 0


async def test_headers_wait_for_room_like_rows(shipper: Shipper, wire: Wire) -> None:
    await shipper.header((HeaderItem(key="a" * 9_000),))
    second = asyncio.create_task(shipper.header((HeaderItem(key="b" * 9_000),)))
    await wire.next()
    assert not second.done()
    shipper.stored(1)
    async with asyncio.timeout(30):
        await second


async def test_a_row_larger_than_the_room_passes_alone(shipper: Shipper, wire: Wire) -> None:
    async with asyncio.timeout(30):
        await shipper.row(row(50_000))
    assert len((await wire.next())[0][0].body) == 50_000


async def test_all_attempts_together_share_one_room() -> None:
    whole = Room(1000)
    one, two = Room(900, whole), Room(900, whole)
    one.take(800)
    assert not two.fits(500)
    waiting = asyncio.create_task(two.changed())
    await asyncio.sleep(0)
    one.give(800)
    async with asyncio.timeout(30):
        await waiting
    assert two.fits(500)


async def test_whoever_waits_for_room_of_a_lost_lease_hears_so(shipper: Shipper, room: Room) -> None:
    await shipper.row(row(9_000))
    waiting = asyncio.create_task(shipper.row(row(9_000)))
    await asyncio.sleep(0)
    shipper.lose()
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(30):
            await waiting
    with pytest.raises(LeaseLost):
        await shipper.output(INFO, "x", "stdout")
    assert room.used == 0


async def test_a_link_that_has_lost_the_lease_ends_the_shipping(shipper: Shipper, wire: Wire, room: Room) -> None:
    wire.lost = True
    await shipper.row(row())
    shipper.flush()
    assert shipper.lost
    assert room.used == 0


async def test_neighbouring_lines_of_stderr_become_one_entry(shipper: Shipper, wire: Wire) -> None:
    for line in ("Traceback (most recent call last):", '  File "main.py"', "ValueError: no"):
        await shipper.output(ERROR, line, "stderr")
    await shipper.output(INFO, "after", "stdout")
    logs = (await wire.next())[1]
    assert [line.content.count("\n") for line in logs] == [2, 0]


async def test_the_log_ends_with_a_clear_line_when_its_limit_is_reached(wire: Wire) -> None:
    shipper = Shipper(wire, room=Room(1 << 30), clock=ManualClock(), redactor=Redactor([]), log_bytes=1000)
    shipper.open()
    for number in range(100):
        await shipper.output(INFO, f"line {number}", "stdout")
    shipper.flush()
    contents = [line.content for _, logs, _ in wire.batches for line in logs]
    assert contents[-1] == "SYSTEM: The log limit of 1000 bytes is reached; later lines are not kept."
    assert len(contents) < 12


async def test_rows_still_pass_when_the_log_is_full(wire: Wire) -> None:
    shipper = Shipper(wire, room=Room(1 << 30), clock=ManualClock(), redactor=Redactor([]), log_bytes=1)
    shipper.open()
    await shipper.output(INFO, "too much", "stdout")
    await shipper.row(row())
    shipper.flush()
    assert sum(len(rows) for rows, _, _ in wire.batches) == 1


async def test_the_runners_token_never_reaches_a_log(shipper: Shipper, wire: Wire) -> None:
    await shipper.output(INFO, "it is secret-token!", "sdk")
    shipper.say("also secret-token")
    shipper.flush()
    assert [line.content for line in wire.batches[-1][1]] == ["it is ***!", "also ***"]


async def test_the_last_header_before_a_batch_counts(shipper: Shipper, wire: Wire) -> None:
    await shipper.header((HeaderItem(key="a"),))
    await shipper.header((HeaderItem(key="b"),))
    shipper.flush()
    assert wire.batches[-1][2] == (HeaderItem(key="b"),)
