"""Let a running subtask speak: what its SDK calls say goes to the shipper."""

from __future__ import annotations

import contextlib
from typing import Final

from clawplane.domain import rows
from clawplane.domain.batches import WARN, ShippedRow
from clawplane.domain.runs import HeaderItem
from clawplane.runner.shipping import LeaseLost, Shipper
from clawplane.sdk.subtask import ACCEPTED, PushOutcome
from clawplane.sdk.subtask import HeaderItem as SdkHeaderItem

LARGEST_ROW: Final = 64 << 20
LARGEST_HEADER: Final = 1 << 20
_ITEM_COST: Final = 32
_TOO_LARGE: Final = 413
_GONE: Final = 410


class SubtaskVoice:
    """Implements `sdk.subtask.Subtask` for one attempt; what a guest says after its lease is lost goes nowhere."""

    def __init__(self, input_: bytes, shipper: Shipper) -> None:
        self._input = input_
        self._shipper = shipper

    def input_json(self) -> str:
        """Return the subtask's input object as JSON text."""
        return self._input.decode() or "{}"

    async def set_header(self, items: list[SdkHeaderItem]) -> None:
        """Replace the run's columns; a table header beyond reason is left out with a warning."""
        if sum(len(item.label) + len(item.key) + len(item.format) + _ITEM_COST for item in items) > LARGEST_HEADER:
            self._shipper.line(WARN, "SYSTEM: A table header of more than 1 MB was ignored.", "system")
            return
        columns = tuple(HeaderItem(key=item.key, label=item.label, format=item.format or "text") for item in items)
        with contextlib.suppress(LeaseLost):
            await self._shipper.header(columns)

    async def push(self, row_json: str) -> PushOutcome:
        """Take one row."""
        row = rows.decode(row_json)
        if len(row.body) > LARGEST_ROW:
            return PushOutcome(_TOO_LARGE, f"the row is larger than {LARGEST_ROW} bytes")
        if row.warning is not None:
            self._shipper.line(WARN, row.warning, "system")
        try:
            await self._shipper.row(ShippedRow(row.body, row.upsert))
        except LeaseLost:
            return PushOutcome(_GONE, "this subtask is being ended")
        return ACCEPTED

    async def log(self, level: int, text: str) -> None:
        """Append one log entry."""
        with contextlib.suppress(LeaseLost):
            await self._shipper.output(level, text, "sdk")
