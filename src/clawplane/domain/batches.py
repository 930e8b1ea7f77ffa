"""What a runner ships of a job while it runs: numbered batches, stored once.

A batch carries rows, log lines and headers in the order in which the guest produced them. Batches of one attempt are
numbered from 1 without gaps; the store keeps the last number beside the data, in the same transaction, so a batch
that is sent again is acknowledged and not stored again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from clawplane.domain.ids import JobId
from clawplane.domain.runs import HeaderItem

LogSource = Literal["sdk", "stdout", "stderr", "system"]

DEBUG, INFO, WARN, ERROR = 1, 2, 3, 4


class ShippedRow(msgspec.Struct, frozen=True, array_like=True):
    """One row: JSON text, and for an upsert the unique column and the text form of its value."""

    body: bytes
    upsert: tuple[str, str] | None = None


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One log entry; `type` 1 debug, 2 info, 3 warn, 4 error; `at` in milliseconds; content may hold newlines."""

    type: int
    content: str
    at: int
    source: LogSource = "sdk"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One shipment of an attempt."""

    job: JobId
    fence: int
    seq: int
    rows: tuple[ShippedRow, ...] = ()
    logs: tuple[LogLine, ...] = ()
    header: tuple[HeaderItem, ...] | None = None


class StoredLogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A log entry as it is read back; `group` is the subtask's id in decimal."""

    seq: int
    type: int
    group: str
    content: str
    at: int
    source: LogSource


class StoredRow(msgspec.Struct, frozen=True, array_like=True):
    """A row as it is read back; `ordinal` counts from 1 within its run and never changes."""

    ordinal: int
    body: bytes
