"""Reading two pipes on demand."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios

import pytest

from clawplane.sandbox.output import Output


def _pipes(limit: int | None = None) -> tuple[Output, int, int, list[str]]:
    crossed: list[str] = []
    out, out_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    err, err_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    return Output({"stdout": out, "stderr": err}, limit, lambda: crossed.append("too much")), out_end, err_end, crossed


def _waiting_in(descriptor: int) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, size)
    return size[0]


async def test_nothing_is_read_until_somebody_asks() -> None:
    output, out, err, _ = _pipes()
    os.write(out, b"x" * 60_000)
    blocks = output.blocks()
    os.write(err, b"y")
    assert _waiting_in(out) == 60_000
    seen = {await anext(blocks), await anext(blocks)}
    assert seen == {("stdout", b"x" * 60_000), ("stderr", b"y")}
    os.write(out, b"z" * 10)
    await asyncio.sleep(0)
    assert _waiting_in(out) == 10
    os.close(out)
    os.close(err)
    assert [block async for block in blocks] == [("stdout", b"z" * 10)]


async def test_both_streams_get_their_turn() -> None:
    output, out, err, _ = _pipes()
    blocks = output.blocks()
    names = []
    for _ in range(4):
        os.write(out, b"o")
        os.write(err, b"e")
        names.append((await anext(blocks))[0])
    assert set(names) == {"stdout", "stderr"}
    os.close(out)
    os.close(err)
    async for _block in blocks:
        pass


async def test_a_reader_takes_over_from_the_drain_without_losing_a_byte() -> None:
    output, out, err, _ = _pipes()
    draining = asyncio.ensure_future(output.drain())
    await asyncio.sleep(0)
    blocks = output.blocks()
    first = asyncio.ensure_future(anext(blocks))
    await asyncio.sleep(0)
    os.write(out, b"mine")
    assert await first == ("stdout", b"mine")
    os.close(out)
    os.close(err)
    assert [block async for block in blocks] == []
    await draining


async def test_there_is_one_reader_at_a_time() -> None:
    output, out, err, _ = _pipes()
    first = output.blocks()
    os.write(out, b"x")
    await anext(first)
    with pytest.raises(RuntimeError, match="one reader"):
        await anext(output.blocks())
    os.close(out)
    os.close(err)
    assert [block async for block in first] == []


async def test_the_limit_counts_both_streams_and_is_told_once_crossed() -> None:
    output, out, err, crossed = _pipes(limit=6)
    os.write(out, b"1234")
    os.write(err, b"5678")
    os.close(out)
    os.close(err)
    seen = b"".join([block async for _, block in output.blocks()])
    assert len(seen) == 6
    assert crossed == ["too much"]


async def test_a_finished_output_ends_although_somebody_still_holds_a_writing_end() -> None:
    output, out, err, _ = _pipes()
    os.write(out, b"last words")
    reading = asyncio.ensure_future(_all(output))
    await asyncio.sleep(0)
    output.finish()
    assert await asyncio.wait_for(reading, 10) == b"last words"
    os.close(out)
    os.close(err)


async def _all(output: Output) -> bytes:
    return b"".join([block async for _, block in output.blocks()])
