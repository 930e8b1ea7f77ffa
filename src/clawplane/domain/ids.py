"""Make and recognise ids: ULIDs for what people see, 53-bit integers for jobs and subtasks."""

from __future__ import annotations

import os
import re
import threading
from typing import Final, NewType

WorkerSlug = NewType("WorkerSlug", str)
RunSlug = NewType("RunSlug", str)
RunnerId = NewType("RunnerId", str)
JobId = NewType("JobId", int)
"""A subtask's id is its job's id: one integer below 2^53, shown as a decimal string."""
POLLS: Final = "poll:"
"""How the ids of runners begin that poll a Task API; those on the link have ULIDs."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_EPOCH_MS = 1_704_067_200_000  # 2024-01-01, so that 43 bits of milliseconds last until 2302
_SEQUENCE_BITS = 10


def new_ulid(now_ms: int) -> str:
    """Return a ULID of `now_ms` (milliseconds since 1970) with 80 random bits."""
    value = (now_ms << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Tell whether `text` is a ULID in its canonical upper-case form."""
    return _ULID.fullmatch(text) is not None


class JobIds:
    """Hand out increasing integers below 2^53 that carry their time of birth."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self, now_ms: int) -> JobId:
        """Return the next id; ids never repeat, even when the clock steps back."""
        with self._lock:
            self._last = max(self._last + 1, (now_ms - _EPOCH_MS) << _SEQUENCE_BITS)
            return JobId(self._last)

    def advance_past(self, highest: int) -> None:
        """Never hand out `highest` or less; called with the store's highest id at start."""
        with self._lock:
            self._last = max(self._last, highest)
