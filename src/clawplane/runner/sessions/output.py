"""Collect what an exec prints: the part that its answer shows, the spill file with all of it, and the live stream."""

from __future__ import annotations

from typing import Final

from clawplane.domain.sessions import Truncated
from clawplane.domain.shown_output import Shown
from clawplane.runner.sessions.events import EventStream
from clawplane.runner.sessions.pipes import Pipes, Stream
from clawplane.runner.sessions.world import WORKSPACE
from clawplane.runner.workspace_files import WorkspaceFiles
from clawplane.runner.workspace_spill import Spill

SHOWN_BYTES: Final = 64 << 10
RAW_BYTES: Final = 1 << 20
_STREAMS: Final[tuple[Stream, Stream]] = ("stdout", "stderr")


class Output:
    """The two streams of one exec."""

    def __init__(
        self, files: WorkspaceFiles, exec_id: str, events: EventStream, *, raw: bool, spill_bytes: int
    ) -> None:
        budget = RAW_BYTES if raw else SHOWN_BYTES
        self._events = events
        self._pipes: Pipes | None = None
        self._shown = {stream: Shown(budget, raw=raw) for stream in _STREAMS}
        self._spills: dict[Stream, Spill] = {
            stream: files.spill(f".outputs/{exec_id}/{stream}.txt", after=budget, limit=spill_bytes)
            for stream in _STREAMS
        }
        self.bytes = 0

    def attach(self, pipes: Pipes) -> None:
        """Take what comes through these pipes."""
        self._pipes = pipes

    def take(self, stream: Stream, block: bytes) -> None:
        """Take one block."""
        self.bytes += len(block)
        self._spills[stream].write(block)
        self._events.text(stream, self._shown[stream].feed(block))

    def take_waiting(self) -> None:
        """Take what is in the pipes now, so that it comes before whatever is told next."""
        if self._pipes is not None:
            self._pipes.take_rest(self.take)

    def traceback(self, lines: tuple[str, ...]) -> None:
        """Put an exception's lines where Python would print them."""
        text = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
        self.take("stderr", text.encode("utf-8", "replace"))

    def close(self) -> None:
        """Let go of the files of an exec that has no result."""
        for spill in self._spills.values():
            spill.close()

    def finish(self) -> tuple[str, str, dict[str, Truncated]]:
        """Return stdout, stderr and what was left out of them."""
        truncated: dict[str, Truncated] = {}
        texts: dict[Stream, str] = {}
        for stream in _STREAMS:
            spill = self._spills[stream]
            kept = self._shown[stream].finish(f"{WORKSPACE}/{spill.path}" if spill.path else "")
            self._events.text(stream, kept.rest)
            texts[stream] = kept.text
            if kept.omitted_bytes:
                truncated[stream] = Truncated(omitted_bytes=kept.omitted_bytes, spill=spill.path)
            spill.close()
        return texts["stdout"], texts["stderr"], truncated
