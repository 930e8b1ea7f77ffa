"""Print log entries as they come, a million of them as readily as one.

A line has to be seen before the next one is waited for, and flushing each would cost more than all the rest. So a flush
is left to the event loop: it runs when there is nothing left to read, which is just when somebody might look.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from clawplane.cli.output import log_text, moment_of
from clawplane.client.following import LogEntry

_LEVELS = {1: "debug", 2: "info", 3: "warn", 4: "error"}


class LogPrinter:
    """Writes to stdout, from within a running event loop."""

    def __init__(self) -> None:
        self._flush_is_due = False
        self._failure: OSError | None = None

    def show(self, entry: LogEntry) -> None:
        """Print an entry with its time (UTC) and level."""
        moment = moment_of(entry["timestamp"])
        level = _LEVELS.get(entry["type"], "info")
        self.write(f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d} {level:<5} {log_text(entry['content'])}")

    def write(self, line: str) -> None:
        """Print a line; raises the OSError with which an earlier one could not be delivered."""
        if self._failure is not None:
            raise self._failure
        sys.stdout.write(line + "\n")
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        try:
            sys.stdout.flush()
        except OSError as error:  # raised in a callback, it would reach nobody
            self._failure = error


async def print_log(entries: AsyncGenerator[LogEntry], *, json: bool) -> None:
    """Print entries to the last one, as lines for people or one JSON object a line."""
    printer = LogPrinter()
    async with aclosing(entries):
        async for entry in entries:
            if json:
                printer.write(msgspec.json.encode(entry).decode())
            else:
                printer.show(entry)
