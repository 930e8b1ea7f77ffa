"""Write for people or for machines: tables, JSON, progress, and failures of one sentence and a hint."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clawplane.domain.errors import ClawplaneError

T = TypeVar("T")

FAILED = 1
USAGE = 2
REFUSED = 78
"""Exit code of a daemon that will not start however often it is tried (EX_CONFIG)."""
INTERRUPTED = 130


def out() -> Console:
    """Return a console on stdout that obeys NO_COLOR and pipes."""
    return Console(soft_wrap=True, highlight=False)


def err() -> Console:
    """Return a console on stderr."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def plain(value: object) -> str:
    """Return `value` as text without control characters, for whatever a guest may have written."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else " " for character in text)


def log_text(content: str) -> str:
    """Return log text with line breaks and tabs kept and every other control character made visible."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else f"\\x{ord(character):02x}"
        for character in content
    )


def show_json(value: object) -> None:
    """Write `value` as one line of JSON to stdout."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write a table, or the sentence `empty` when there is nothing to show."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
        count += 1
    if count:
        out().print(table)
    else:
        err().print(empty)


def say(text: str) -> None:
    """Tell a person something on stderr, so that stdout stays for results."""
    err().print(Text(text))


def fail(error: ClawplaneError) -> None:
    """Write an error's sentence, details and hint to stderr."""
    console = err()
    console.print(Text.assemble(("error: ", "bold red"), plain(error.message)))
    for detail in error.details:
        console.print(Text(f"  {plain(detail)}"))
    if error.hint:
        console.print(Text.assemble(("hint: ", "bold"), plain(error.hint)))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end; an error of ours becomes its sentence and exit code 1."""
    try:
        return asyncio.run(work)
    except ClawplaneError as error:
        fail(error)
        raise SystemExit(FAILED) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


class Progress(Protocol):
    """What a command tells while it works."""

    def update(self, text: str) -> None:
        """Replace the line that is shown."""
        ...


class _Quiet:
    def update(self, text: str) -> None:
        """Show nothing."""


class _Lines:
    """Without a terminal: a line for each new phase, not for each number."""

    def __init__(self) -> None:
        self._last = ""

    def update(self, text: str) -> None:
        """Write `text` when its phase (the text up to the first digit) is new."""
        phase = text.partition(":")[0]
        if phase != self._last:
            self._last = phase
            say(text)


@contextmanager
def progress(text: str, *, quiet: bool) -> Iterator[Progress]:
    """Show what goes on: a spinner on a terminal, a line for each phase elsewhere, nothing when `quiet`."""
    if quiet:
        yield _Quiet()
        return
    console = err()
    if not console.is_terminal:
        lines = _Lines()
        lines.update(text)
        yield lines
        return
    with console.status(Text(text)) as status:

        class Spinner:
            def update(self, text: str) -> None:
                status.update(Text(text))

        yield Spinner()


def size(count: int) -> str:
    """Return a byte count for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return ""
