"""What is wrong, or unwise, in an uploaded package."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["error", "warn", "info"]


class Diagnostic(msgspec.Struct, frozen=True):
    """One finding: `code` for machines, `message` plain, `hint` the way out.

    `file` is a path inside the package (None = the package as a whole); `line` counts from 1.
    """

    code: str
    severity: Severity
    message: str
    file: str | None = None
    line: int | None = None
    hint: str = ""

    def sentence(self) -> str:
        """Return the finding on one line: place, code, message, hint."""
        place = "" if self.file is None else self.file if self.line is None else f"{self.file}:{self.line}"
        text = f"{place}: {self.code}: {self.message}" if place else f"{self.code}: {self.message}"
        return f"{text} {self.hint}" if self.hint else text
