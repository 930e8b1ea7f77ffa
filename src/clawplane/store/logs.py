"""Write and read logs: one stream of numbered lines per run or build, in chunks as they were shipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.batches import LogLine, StoredLogLine
from clawplane.store.chunks import cut, pack
from clawplane.store.database import Row, Transaction

_unpack = msgspec.msgpack.Decoder(list[LogLine]).decode
_CHUNKS_AT_ONCE = 16
_END = 1 << 62


class SystemLines(NamedTuple):
    """Lines of the platform itself for one subject's log."""

    subject: str
    group: str
    lines: tuple[LogLine, ...]


class LogWriter:
    """The lines of one batch of writes, by subject."""

    def __init__(self) -> None:
        self._by_subject: dict[str, list[tuple[str, Sequence[LogLine]]]] = defaultdict(list)

    def add(self, subject: str, group: str, lines: Sequence[LogLine]) -> None:
        """Append lines, in order."""
        if lines:
            self._by_subject[subject].append((group, lines))

    async def write(self, tx: Transaction) -> None:
        """Number the lines and store them."""
        chunks: list[tuple[object, ...]] = []
        ends: list[tuple[int, int]] = []
        for subject, shipments in self._by_subject.items():
            found = await tx.fetch("find_log_stream", {"subject": subject})
            ((stream, last),) = found or await tx.fetch("insert_log_stream", {"subject": subject})
            for group, lines in shipments:
                for part in cut(lines, [len(line.content) for line in lines]):
                    chunks.append((stream, last + 1, len(part), group, pack(part)))
                    last += len(part)
            ends.append((last, stream))
        await tx.many("insert_log_chunk", chunks)
        await tx.many("advance_log_stream", ends)


async def append_system_lines(tx: Transaction, items: Sequence[SystemLines]) -> list[None]:
    """Store lines of the platform."""
    writer = LogWriter()
    for subject, group, lines in items:
        writer.add(subject, group, lines)
    await writer.write(tx)
    return [None] * len(items)


async def tail(tx: Transaction, subject: str, limit: int) -> list[StoredLogLine]:
    """Return the newest lines, oldest first."""
    blocks: list[list[StoredLogLine]] = []
    missing, before = limit, _END
    while missing > 0:
        rows = await tx.fetch("log_chunks_before", {"subject": subject, "before": before, "limit": _CHUNKS_AT_ONCE})
        for row in rows:
            block = _lines(row)[-missing:] if missing > 0 else []
            blocks.append(block)
            missing -= len(block)
        if len(rows) < _CHUNKS_AT_ONCE:
            break
        before = rows[-1][0]
    return [line for block in reversed(blocks) for line in block]


async def behind(tx: Transaction, subject: str, seq: int, limit: int) -> list[StoredLogLine]:
    """Return lines behind `seq`, oldest first."""
    lines: list[StoredLogLine] = []
    at = seq
    while len(lines) < limit:
        rows = await tx.fetch("log_chunks_behind", {"subject": subject, "seq": at, "limit": _CHUNKS_AT_ONCE})
        for row in rows:
            lines += [line for line in _lines(row) if line.seq > at]
        if len(rows) < _CHUNKS_AT_ONCE:
            break
        at = rows[-1][0] + rows[-1][1] - 1
    return lines[:limit]


def _lines(row: Row) -> list[StoredLogLine]:
    first, _, group, body = row
    return [
        StoredLogLine(
            seq=first + index, type=line.type, group=group, content=line.content, at=line.at, source=line.source
        )
        for index, line in enumerate(_unpack(body))
    ]
