"""Head and body of an answer leave in one piece, and a head whose body comes later does not wait for it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from clawplane.api.heads import JoinedWrites


class Transport:
    """What a transport was told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("closed")

    def get_protocol(self) -> None:
        return None


def joined() -> tuple[Transport, Any]:
    transport = Transport()
    return transport, JoinedWrites(cast(asyncio.Transport, transport), asyncio.get_running_loop())


async def test_head_and_body_of_one_turn_are_one_write_and_what_follows_passes_as_it_comes() -> None:
    transport, writes = joined()
    writes.write(b"head ")
    writes.write(b"body")
    writes.write(b"more")
    await asyncio.sleep(0)
    assert transport.told == [b"head body", b"more"]


async def test_a_head_without_a_body_is_written_at_the_next_turn_of_the_loop() -> None:
    transport, writes = joined()
    writes.write(b"head ")
    assert transport.told == []
    await asyncio.sleep(0)
    assert transport.told == [b"head "]
    writes.write(b"body")
    assert transport.told == [b"head ", b"body"]


async def test_an_empty_body_and_a_close_let_the_head_out() -> None:
    for last in (lambda writes: writes.write(b""), lambda writes: writes.close()):
        transport, writes = joined()
        writes.write(b"head")
        last(writes)
        assert transport.told[0] == b"head"
