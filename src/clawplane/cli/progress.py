"""Show what goes on: a moving line on a terminal, a line for each phase elsewhere, nothing when nobody wants it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from clawplane.cli.output import interactive, log_text, plain, say

_LONGEST_LINE = 160


class Progress(Protocol):
    """What a command tells while it works."""

    def update(self, phase: str, detail: str = "") -> None:
        """Say what is being done now, and how far it has come."""
        ...

    def note(self, text: str) -> None:
        """Say something that stays."""
        ...


class Quiet:
    """Tell what cannot wait, and nothing else."""

    def update(self, phase: str, detail: str = "") -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Write a line to stderr."""
        say(text)


class Lines(Quiet):
    """Write a line for each new phase, none for its details: a log file is no place for a counter."""

    def __init__(self) -> None:
        self._phase = ""

    def update(self, phase: str, detail: str = "") -> None:
        """Write `phase` when it is new."""
        if phase != self._phase:
            self._phase = phase
            say(f"{phase} ...")


class _Moving:
    """The text beside the spinner, with the seconds since its phase began."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self._note = note
        self._phase, self._detail, self._since = "", "", time.monotonic()

    def update(self, phase: str, detail: str = "") -> None:
        """Replace the line."""
        if phase != self._phase:
            self._phase, self._since = phase, time.monotonic()
        self._detail = plain(detail)

    def note(self, text: str) -> None:
        """Write a line above the moving one."""
        self._note(log_text(text))

    def line(self) -> str:
        """Return the line as it is now."""
        seconds = int(time.monotonic() - self._since)
        elapsed = f" ({seconds} s)" if seconds else ""
        text = f"{plain(self._phase)}{elapsed}"
        return f"{text}: {self._detail}"[:_LONGEST_LINE] if self._detail else text


@contextmanager
def progress(phase: str, *, quiet: bool) -> Iterator[Progress]:
    """Show `phase`, and what follows it, for as long as the block lasts."""
    if quiet:
        yield Quiet()
        return
    if not interactive(sys.stderr):
        lines = Lines()
        lines.update(phase)
        yield lines
        return
    with _spinner() as moving:
        moving.update(phase)
        yield moving


@contextmanager
def _spinner() -> Iterator[_Moving]:
    from rich.console import Console, ConsoleOptions, RenderResult  # noqa: PLC0415 - costs 50 ms, and only people see it
    from rich.live import Live  # noqa: PLC0415
    from rich.spinner import Spinner  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True, highlight=False, markup=False)
    moving = _Moving(console.print)
    spinner = Spinner("dots")

    class Line:
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            spinner.update(text=Text(moving.line(), no_wrap=True, overflow="ellipsis"))
            yield spinner

    # stdout keeps going where it was sent: results may be piped while the line moves on the terminal
    with Live(
        Line(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        refresh_per_second=10,
    ):
        yield moving
