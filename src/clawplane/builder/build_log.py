"""Turn what an installer prints into clean, bounded lines and phases."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

LINE_BYTES = 4096
TAIL_LINES = 200

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NOISE = ("Using Python ",)
_PHASES = (
    (re.compile(r"Resolved \d+ package"), "downloading"),
    (re.compile(r"Prepared \d+ package"), "installing"),
    (re.compile(r"\s*Building \S+"), "building from source"),
)


class BuildLog:
    """Collects the output of one build; `on_line` and `on_phase` are called as things happen.

    Lines are text without control characters, at most 4096 bytes of input each. Phases: resolving, downloading,
    building from source, installing, compiling.
    """

    def __init__(self, on_line: Callable[[str], None], on_phase: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._on_phase = on_phase
        self._phase = ""
        self._on_step_phase: Callable[[str], None] = lambda phase: None
        self._partial = b""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.step: deque[str] = deque(maxlen=TAIL_LINES)
        """The last lines of the current step."""

    @property
    def tail(self) -> str:
        """The last lines of the whole build."""
        return "\n".join(self._tail)

    def begin(self, phase: str, on_phase: Callable[[str], None] = lambda phase: None) -> None:
        """Start a step in the given phase; `on_phase` is told of those its output enters, besides the log's own."""
        self.step.clear()
        self._on_step_phase = on_phase
        self._partial = b""
        self._enter(phase)

    def say(self, line: str) -> None:
        """Add a line of the builder's own."""
        self._add(line)

    async def feed(self, chunk: bytes) -> None:
        """Take output as it arrives, in any pieces."""
        *lines, rest = (self._partial + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        while len(rest) > LINE_BYTES:
            lines.append(rest[:LINE_BYTES])
            rest = rest[LINE_BYTES:]
        self._partial = rest
        for line in lines:
            self._add(line[:LINE_BYTES].decode("utf-8", "replace"))

    def end(self) -> None:
        """Finish a step: a last line without its newline counts too."""
        if self._partial:
            self._add(self._partial.decode("utf-8", "replace"))
        self._partial = b""

    def _add(self, raw: str) -> None:
        line = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", raw)).rstrip()
        if not line or line.startswith(_NOISE):
            return
        for pattern, phase in _PHASES:
            if pattern.match(line):
                self._enter(phase)
                self._on_step_phase(phase)
        self._tail.append(line)
        self.step.append(line)
        self._on_line(line)

    def _enter(self, phase: str) -> None:
        if phase != self._phase:
            self._phase = phase
            self._on_phase(phase)
