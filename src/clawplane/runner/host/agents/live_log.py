"""CC_LOG_PATH: what Claude Code says, live, in a private file that a person can follow with `tail -f`.

Turns that run at once share the file; every turn has a start and an end marker that name its conversation. The file is
moved to `<name>.1` when a turn begins and it has grown beyond its bound. A place that may not be used (see private.py)
costs the log, never the turn.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from clawplane.runner.host import private

LOG = logging.getLogger(__name__)
LARGEST: Final = 16 << 20
_HEAD: Final = 200
"""Characters of a prompt that its start marker shows."""


class LiveLog:
    """The log of one turn; without a path it goes nowhere."""

    def __init__(self, path: Path | None, name: str) -> None:
        self._name = name
        self._file = _open(path) if path else None

    def begin(self, prompt: str, now: str) -> None:
        """Write the start marker with the head of the prompt on one line."""
        self.write(f"\n=== {now} start {self._name} === {' '.join(prompt[:_HEAD].split())}\n")

    def write(self, text: str) -> None:
        """Append text as it comes."""
        if self._file and text:
            with suppress(OSError):
                self._file.write(text.encode("utf-8", "replace"))

    def end(self, outcome: str, now: str) -> None:
        """Write the end marker and close."""
        self.write(f"\n=== {now} end {self._name} === {outcome}\n")
        if self._file:
            self._file.close()
            self._file = None


def _open(path: Path) -> BinaryIO | None:
    try:
        file = private.append(path)
        if file.tell() <= LARGEST:
            return file
        file.close()
        path.replace(path.with_name(f"{path.name}.1"))
        return private.append(path)
    except OSError as failed:
        LOG.warning("The live log is not written: %s", failed)
        return None
