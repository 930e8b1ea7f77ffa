"""Measure how fast rows are stored and read back.

python -m bench.rows [--rows N] [--batch N] [--callers N] [--rounds N]

Several runners ship batches of 200-byte rows through the port: fenced, numbered, each batch acknowledged after its
commit is on the disk. Beside it, in the same run: one transaction per batch of plain sqlite3 with executemany.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sqlite3
import tempfile
import time
from pathlib import Path

import uvloop

from bench.jobs import NOW, new_run
from bench.report import Figure, median, show
from clawplane.domain.batches import Batch, ShippedRow
from clawplane.domain.ids import RunnerId
from clawplane.domain.leases import Claim, Offer, Want
from clawplane.store import Store, open_store

BAR = 100_000
READ_BAR = 200_000


def body(number: int) -> bytes:
    """Return a row of 200 bytes."""
    row = b'{"id":%d,"title":"Item %d","price":19.99,"url":"https://example.org/item/%d","text":"' % ((number,) * 3)
    return row + b"x" * (198 - len(row)) + b'"}'


async def leases(store: Store, count: int) -> list[Offer]:
    """Return `count` confirmed leases of subtasks of one run."""
    await store.runs.start(new_run(0, count), max_running=1)
    want = Want(runner=RunnerId("r"), caps="workers", count=count)
    offers = await store.queue.offer([want], now=NOW, offer_ms=9999)
    for offer in offers:
        await store.queue.confirm(Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce), offer.runner, now=NOW)
    return offers


async def ship(store: Store, offer: Offer, rows: list[ShippedRow], batch: int) -> None:
    """Ship rows as one runner does: the next batch after the last was acknowledged."""
    for seq, at in enumerate(range(0, len(rows), batch), 1):
        part = Batch(job=offer.job, fence=offer.fence, seq=seq, rows=tuple(rows[at : at + batch]))
        answer = await store.runs.append(part)
        if answer.stored_up_to != seq:
            raise SystemExit(f"batch {seq} of job {offer.job} was not stored")


async def store_and_read(rows: int, batch: int, callers: int) -> tuple[float, float]:
    """Return rows stored per second and rows read back per second."""
    shipped = [ShippedRow(body(number)) for number in range(rows // callers)]
    with tempfile.TemporaryDirectory(prefix="bench-rows-") as directory:
        store = await open_store(Path(directory))
        offers = await leases(store, callers)
        gc.collect()
        started = time.perf_counter()
        await asyncio.gather(*(ship(store, offer, shipped, batch) for offer in offers))
        stored = time.perf_counter()
        read = 0
        async for bodies in store.runs.stream_rows(new_run(0, 1).run.slug):
            read += len(bodies)
        ended = time.perf_counter()
        await store.close()
    if read != len(shipped) * callers:
        raise SystemExit(f"{len(shipped) * callers} rows were stored, {read} read back")
    return read / (stored - started), read / (ended - stored)


def plain(rows: int, batch: int) -> float:
    """Return rows stored per second by executemany, one synced transaction per batch."""
    values = [(number, body(number)) for number in range(rows)]
    with tempfile.TemporaryDirectory(prefix="bench-rows-") as directory:
        connection = sqlite3.connect(Path(directory) / "plain.db", isolation_level=None)
        connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE r (n INTEGER PRIMARY KEY, body BLOB)"
        )
        started = time.perf_counter()
        for at in range(0, rows, batch):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO r VALUES (?, ?)", values[at : at + batch])
            connection.execute("COMMIT")
        seconds = time.perf_counter() - started
        connection.close()
    return rows / seconds


async def measure(rows: int, batch: int, callers: int, rounds: int) -> list[Figure]:
    """Return the figures; each is the median of `rounds`, taken in turn with its baseline."""
    bases, stored, read = [], [], []
    for _ in range(rounds):
        bases.append(plain(rows, batch))
        into, out = await store_and_read(rows, batch, callers)
        stored.append(into)
        read.append(out)
    base = median(bases)
    return [
        Figure(f"baseline: executemany, {batch} rows a transaction", base, "rows/s"),
        Figure(
            f"rows stored: {callers} runners, batches of {batch}",
            median(stored),
            "rows/s",
            bar=f">= {BAR:,}",
            met=median(stored) >= BAR,
            baseline="executemany",
            ratio=median(stored) / base,
        ),
        Figure(
            "rows read back as a stream", median(read), "rows/s", bar=f">= {READ_BAR:,}", met=median(read) >= READ_BAR
        ),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(options.rows, options.batch, options.callers, options.rounds))
    show("Rows of 200 bytes: fenced, numbered, every commit synced (SQLite, WAL, synchronous=FULL)", figures)


if __name__ == "__main__":
    main()
