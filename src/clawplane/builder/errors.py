"""Name what can go wrong between a dependency file and an environment.

BuilderError
├── ManifestRefused   the dependency file itself cannot be accepted: file, line, reason and way out
└── BuildFailed       the installer said no, or was ended: its own words and the end of its log
"""

from __future__ import annotations


class BuilderError(Exception):
    """Base of everything this package raises on purpose."""


class ManifestRefused(BuilderError):
    """Say which line of which file is refused, why, and the way out. Lines count from 1; 0 is the whole file."""

    def __init__(self, file: str, line: int, reason: str, hint: str) -> None:
        self.file = file
        self.line = line
        self.reason = reason
        self.hint = hint
        place = f"{file}:{line}" if line else file
        super().__init__(f"{place}: {reason} {hint}".rstrip())


class BuildFailed(BuilderError):
    """Carry the installer's own message and the last lines of its log."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        self.message = message
        self.log_tail = log_tail
        super().__init__(message)
