"""One finding about a package, with the place and the way out."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["error", "warn", "info"]


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """A finding with a machine code, a plain sentence and a hint at the way out; `line` counts from 1."""

    code: str
    severity: Severity
    message: str
    file: str | None = None
    line: int | None = None
    hint: str = ""
