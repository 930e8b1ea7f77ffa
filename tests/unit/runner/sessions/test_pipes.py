"""Reading what a process prints, and the numbers of its pipes, which others get when it ends."""

from __future__ import annotations

import asyncio
import os

from clawplane.runner.sessions.pipes import make_pipes
from clawplane.sandbox.readiness import readable

PATIENCE = 20.0


async def test_what_is_printed_is_handed_over_until_both_pipes_are_closed():
    pipes, out, err = make_pipes()
    taken = []
    reading = asyncio.create_task(pipes.read(lambda stream, block: taken.append((stream, block))))
    os.write(out, b"one")
    os.close(out)
    os.write(err, b"two")
    os.close(err)
    async with asyncio.timeout(PATIENCE):
        await reading
    assert sorted(taken) == [("stderr", b"two"), ("stdout", b"one")]


async def test_who_reads_hears_that_the_pipes_were_closed_under_another_hand():
    pipes, out, err = make_pipes()
    reading = asyncio.create_task(pipes.read(lambda stream, block: None))
    await asyncio.sleep(0)
    pipes.close()
    async with asyncio.timeout(PATIENCE):
        await reading
    os.close(out)
    os.close(err)


async def test_the_number_of_a_pipe_that_ended_beside_its_reader_works_for_the_next_one():
    pipes, out, err = make_pipes()
    reading = asyncio.create_task(pipes.read(lambda stream, block: None))
    await asyncio.sleep(0)
    os.close(out)
    os.close(err)
    pipes.take_rest(lambda stream, block: None)  # meets the end before the event loop does
    successors = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
    try:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        for ours, theirs in successors:
            os.write(theirs, b"x")
            async with asyncio.timeout(PATIENCE):
                await readable(ours)
    finally:
        for each in (descriptor for pair in successors for descriptor in pair):
            os.close(each)


async def test_a_reader_that_is_told_to_stop_late_does_not_take_the_number_from_the_next_one():
    pipes, out, err = make_pipes()
    reading = asyncio.create_task(pipes.read(lambda stream, block: None))
    await asyncio.sleep(0)
    pipes.close()
    successors = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
    try:
        waiting = [asyncio.create_task(readable(ours)) for ours, _ in successors]
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        for _, theirs in successors:
            os.write(theirs, b"x")
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*waiting)
    finally:
        for each in (out, err, *(descriptor for pair in successors for descriptor in pair)):
            os.close(each)
