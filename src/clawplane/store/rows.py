"""Write and read a run's rows.

Rows are numbered per run from 1 in the order in which they are stored, and kept in chunks as they were shipped. An
upserted row is a chunk by itself, found again by a digest of its key and value. A row belongs to the subtask that
shipped it and goes when that subtask's attempt is void or failed; a row that several subtasks have upserted belongs to
the run (job 0) and stays, because dropping it would drop what another subtask was told is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.batches import ShippedRow, StoredRow
from clawplane.domain.errors import TooLarge
from clawplane.domain.ids import JobId
from clawplane.domain.rows import merge
from clawplane.store.chunks import cut, pack, unpack_rows
from clawplane.store.database import Transaction, first

_OF_THE_RUN = 0
_CHUNKS_AT_ONCE = 256
STEP_BYTES = 8 << 20
"""What is read and held of a run's rows at a time, unless a single row is larger."""

_PAGE_BYTES = 64 << 20
_MOST_KEYS, _LONGEST_KEY = 10_000, 1000


class _Upserted(msgspec.Struct, gc=False):
    """An upserted row: `new` when it is not stored yet; `updates` are laid over `body` when it is written."""

    digest: str
    ordinal: int
    job: int
    body: bytes
    new: bool
    updates: list[bytes] = msgspec.field(default_factory=list)

    def packed(self) -> bytes:
        """Return the row as it is stored."""
        return pack([merge(self.body, *self.updates) if self.updates else self.body])


class RowWriter:
    """The rows of one batch of writes, by run."""

    def __init__(self) -> None:
        self._shipments: dict[int, list[tuple[JobId, Sequence[ShippedRow]]]] = defaultdict(list)
        self._last: dict[int, int] = {}

    def add(self, run: int, last_ordinal: int, job: JobId, rows: Sequence[ShippedRow]) -> None:
        """Append rows in order; `last_ordinal` is the run's before this batch of writes."""
        if rows:
            self._shipments[run].append((job, rows))
            self._last[run] = last_ordinal

    async def write(self, tx: Transaction) -> None:
        """Number the rows and store them."""
        for run, shipments in self._shipments.items():
            writer = _RunRows(run, self._last[run])
            await writer.load(tx, shipments)
            for job, rows in shipments:
                writer.take(job, rows)
            await writer.write(tx)


class _RunRows:
    """The new rows of one run."""

    def __init__(self, run: int, last_ordinal: int) -> None:
        self._run = run
        self._last = last_ordinal
        self._added: dict[int, int] = defaultdict(int)
        self._chunks: list[tuple[object, ...]] = []
        self._upserts: dict[str, _Upserted] = {}

    async def load(self, tx: Transaction, shipments: Sequence[tuple[JobId, Sequence[ShippedRow]]]) -> None:
        """Read the stored rows that these shipments may update."""
        digests = [digest_of(*row.upsert) for _, rows in shipments for row in rows if row.upsert is not None]
        if digests:
            wanted = {"run": self._run, "digests": json.dumps(list(dict.fromkeys(digests)))}
            for digest, ordinal, job, body in await tx.fetch("upserted_rows", wanted):
                self._upserts[digest] = _Upserted(digest, ordinal, job, unpack_rows(body)[0], new=False)

    def take(self, job: JobId, rows: Sequence[ShippedRow]) -> None:
        """Number the rows of one shipment."""
        plain: list[bytes] = []
        for row in rows:
            if row.upsert is None:
                plain.append(row.body)
            else:
                self._append(job, plain)
                plain = []
                self._upsert(job, digest_of(*row.upsert), row.body)
        self._append(job, plain)

    def _append(self, job: JobId, bodies: Sequence[bytes]) -> None:
        for part in cut(bodies, [len(body) for body in bodies]):
            self._chunks.append((self._run, self._last + 1, len(part), job, pack(part)))
            self._last += len(part)
        self._added[job] += len(bodies)

    def _upsert(self, job: JobId, digest: str, body: bytes) -> None:
        stored = self._upserts.get(digest)
        if stored is None:
            self._last += 1
            self._added[job] += 1
            self._upserts[digest] = _Upserted(digest, self._last, job, body, new=True)
            return
        stored.updates.append(body)
        if stored.job not in (job, _OF_THE_RUN):
            self._added[stored.job] -= 1
            self._added[_OF_THE_RUN] += 1
            stored.job = _OF_THE_RUN

    async def write(self, tx: Transaction) -> None:
        """Store what was taken."""
        new = [row for row in self._upserts.values() if row.new]
        changed = [row for row in self._upserts.values() if row.updates and not row.new]
        await tx.many("insert_row_chunk", self._chunks)
        await tx.many("insert_row_chunk", [(self._run, row.ordinal, 1, row.job, row.packed()) for row in new])
        await tx.many("insert_upsert", [(self._run, row.digest, row.ordinal, row.job) for row in new])
        await tx.many("replace_row", [(row.job, row.packed(), self._run, row.ordinal) for row in changed])
        shared = [row for row in changed if row.job == _OF_THE_RUN]
        await tx.many("share_upsert", [(self._run, row.digest) for row in shared])
        await tx.many("add_rows_to_run", [(self._last, sum(self._added.values()), self._run)])
        await tx.many("add_rows_to_subtask", [(added, job) for job, added in self._added.items() if job and added])


def digest_of(key: str, value: str) -> str:
    """Return what an upserted row is found by; a guest may use values of any length."""
    return hashlib.sha256(f"{len(key)}:{key}{value}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


class RunRows(NamedTuple):
    """A run's rows as a reader sees them; `hide` leaves out those of failed subtasks."""

    run: int
    hide: int
    visible: int
    last_ordinal: int


async def rows_of(tx: Transaction, slug: str) -> RunRows | None:
    """Return where a run's rows are, None when there is no such run."""
    row = await first(tx.fetch("rows_of_run", {"slug": slug}))
    return None if row is None else RunRows(*row)


async def page(tx: Transaction, of: RunRows, limit: int, offset: int) -> list[StoredRow]:
    """Return `limit` visible rows after the first `offset`; raises TooLarge when they are too many bytes to hold."""
    if offset >= of.visible or limit <= 0:
        return []
    if of.visible == of.last_ordinal:  # no holes: the ordinal follows from the offset
        place = await first(tx.fetch("chunk_with_ordinal", {"run": of.run, "ordinal": offset + 1}))
    else:
        place = await first(tx.fetch("chunk_at_offset", {"run": of.run, "hide": of.hide, "offset": offset}))
    if place is None:
        return []
    start, before = place
    skip = offset - before
    rows: list[StoredRow] = []
    size = 0
    while start is not None and len(rows) < skip + limit:
        step = await read_step(tx, of, start, skip + limit - len(rows))
        for ordinal, bodies in step.chunks:
            rows += [StoredRow(ordinal + index, body) for index, body in enumerate(bodies)]
            size += sum(map(len, bodies))
        if size > _PAGE_BYTES and limit > 1:
            raise TooLarge(
                f"These {limit} rows are larger than {_PAGE_BYTES >> 20} MB together.",
                hint="Ask for fewer at once with `limit`, or export them.",
            )
        start = step.next
    return rows[skip : skip + limit]


class Step(NamedTuple):
    """Some chunks as (ordinal of the first row, rows), and where the next step starts (None = at the end)."""

    chunks: list[tuple[int, list[bytes]]]
    next: int | None


async def read_step(tx: Transaction, of: RunRows, start: int, rows: int) -> Step:
    """Read whole chunks from ordinal `start`: about `rows` rows, or less when they are large."""
    where = {"run": of.run, "hide": of.hide, "first": start}
    taken = size = 0
    last: int | None = None
    for ordinal, count, length in await tx.fetch("chunk_sizes", {**where, "limit": min(rows, _CHUNKS_AT_ONCE)}):
        if last is not None and (taken >= rows or size + length > STEP_BYTES):
            break
        taken, size, last = taken + count, size + length, ordinal
    if last is None:
        return Step([], None)
    found = await tx.fetch("chunks_between", {**where, "last": last})
    return Step([(ordinal, unpack_rows(body)) for ordinal, body in found], last + 1)


_keys_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def add_keys(seen: dict[str, None], bodies: Sequence[bytes]) -> None:
    """Add the keys of these rows to `seen`, in order; rows that are no objects have none.

    Keys that nobody meant as columns, overlong ones and those beyond the first 10,000, are left out.
    """
    for body in bodies:
        if len(seen) >= _MOST_KEYS:
            return
        if body.startswith(b"{"):
            found = _keys_of(body)
            if found.keys() <= seen.keys():
                continue
            for key in found:
                if len(key) <= _LONGEST_KEY and len(seen) < _MOST_KEYS:
                    seen[key] = None
