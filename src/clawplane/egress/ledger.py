"""Note which hosts were reached or refused, how often, and how many bytes passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["allowed", "denied", "failed"]

MOST_ENTRIES: Final = 256
OTHERS: Final = "(others)"
"""The host of the entries that sum up what found no entry of its own any more."""


@dataclass(slots=True)
class Entry:
    """Connections to one host and port with one verdict; bytes each way; `reason` of the last refusal or failure."""

    host: str
    port: int
    verdict: Verdict
    connections: int = 0
    sent: int = 0
    received: int = 0
    reason: str = ""


_Key = tuple[str, int, Verdict]
Mark = Mapping[_Key, tuple[int, int, int]]
"""Where a ledger stood."""


class Ledger:
    """The account of one session or subtask; it grows to MOST_ENTRIES hosts and sums up the rest."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._entries: dict[_Key, Entry] = {}
        self._most = most
        self.total = 0
        """Bytes that passed, both ways, ever."""

    def note(self, host: str, port: int, verdict: Verdict, reason: str = "") -> tuple[Entry, bool]:
        """Count a connection; return its entry, to count bytes on, and whether it is the first of its kind."""
        entry, new = self._entry(host, port, verdict)
        entry.connections += 1
        entry.reason = reason
        return entry, new

    def sent(self, entry: Entry, count: int) -> None:
        """Count bytes that go out."""
        entry.sent += count
        self.total += count

    def received(self, entry: Entry, count: int) -> None:
        """Count bytes that come in."""
        entry.received += count
        self.total += count

    def mark(self) -> Mark:
        """Return where the ledger stands, for `since`."""
        return {key: (entry.connections, entry.sent, entry.received) for key, entry in self._entries.items()}

    def since(self, mark: Mark | None = None) -> tuple[Entry, ...]:
        """Return what has happened after a mark, or ever; hosts without any change are left out."""
        changes: list[Entry] = []
        for key, entry in self._entries.items():
            connections, sent, received = (mark or {}).get(key, (0, 0, 0))
            change = Entry(
                entry.host,
                entry.port,
                entry.verdict,
                entry.connections - connections,
                entry.sent - sent,
                entry.received - received,
                entry.reason,
            )
            if change.connections or change.sent or change.received:
                changes.append(change)
        return tuple(changes)

    def _entry(self, host: str, port: int, verdict: Verdict) -> tuple[Entry, bool]:
        key = (host, port, verdict)
        if key not in self._entries and len(self._entries) >= self._most:
            key = (OTHERS, 0, verdict)
        new = key not in self._entries
        if new:
            self._entries[key] = Entry(*key)
        return self._entries[key], new
