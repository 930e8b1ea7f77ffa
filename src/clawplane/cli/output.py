"""Write for people or for machines: lines, tables, JSON, and failures of one sentence and a hint.

Results go to stdout, everything that is said about them to stderr. Whatever a Worker, a server or a file name may
have put into a text passes `plain` or `log_text` on its way, so that no terminal obeys it. `rich` is imported where a
table or a moving line is drawn and nowhere else: it would cost every other command 50 ms.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from clawplane.domain.errors import ClawplaneError

FAILED = 1
"""The request was refused, or the run or build it watched failed."""
USAGE = 2
"""The command line itself is wrong."""
TIMED_OUT = 124
"""`task run` and `task result`: the task ran out of time (otherwise they end with the exit code of the task)."""
NO_CODE = 125
"""`task run` and `task result`: the task was cancelled, refused, lost, or could not be started."""
DEFECT = 70
"""A defect of clawplane (EX_SOFTWARE)."""
REFUSED = 78
"""A daemon that will not start however often it is tried (EX_CONFIG)."""
INTERRUPTED = 130
"""Ctrl-C."""
PIPE_CLOSED = 141
"""Whoever read the output stopped reading (128 + SIGPIPE)."""
TERMINATED = 143
"""SIGTERM."""

_UNBOUNDED = 100_000
_LATEST_MOMENT = 253_402_300_799_000


def plain(value: object) -> str:
    """Return `value` on one line without anything a terminal would obey."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else " " for character in text)


def log_text(content: str) -> str:
    """Return log text with line breaks and tabs kept and every other control character made visible."""
    if content.isprintable():
        return content
    return "".join(
        character if character.isprintable() or character in "\n\t" else _escaped(ord(character))
        for character in content
    )


def _escaped(number: int) -> str:
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{{{number:x}}}"


def interactive(stream: TextIO) -> bool:
    """Tell whether a person watches `stream` on a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(stream: TextIO) -> bool:
    """Tell whether `stream` may carry colours: a terminal, and NO_COLOR is not set."""
    return interactive(stream) and not os.environ.get("NO_COLOR")


def tell(text: str) -> None:
    """Write a result to stdout."""
    sys.stdout.write(log_text(text) + "\n")


def say(text: str) -> None:
    """Tell a person something on stderr, so that stdout stays for results."""
    sys.stderr.write(log_text(text) + "\n")
    sys.stderr.flush()


def show_json(value: object) -> None:
    """Write `value` as one line of JSON to stdout."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write a table, or the sentence `empty` when there is nothing to show; lines are broken on terminals only."""
    cells = [[plain(cell) for cell in row] for row in rows]
    if not cells:
        say(empty)
        return
    from rich.console import Console  # noqa: PLC0415 - see the head of this file
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(plain(column)), overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED).print(table)


def fail(error: ClawplaneError, *, as_json: bool = False) -> None:
    """Write an error's sentence, details and hint to stderr, or all of it as one line of JSON."""
    if as_json:
        body = {"error": error.code, "message": error.message, "details": error.details, "hint": error.hint}
        text = msgspec.json.encode(body, enc_hook=str).decode()
        sys.stderr.write(text + "\n")
        return
    bold, red, end = ("\x1b[1m", "\x1b[1;31m", "\x1b[0m") if coloured(sys.stderr) else ("", "", "")
    lines = [f"{red}error:{end} {plain(error.message)}"]
    lines += [f"  {plain(detail)}" for detail in error.details]
    if error.hint:
        lines.append(f"{bold}hint:{end} {plain(error.hint)}")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def size(count: int) -> str:
    """Return a byte count for people."""
    if count < 1000:
        return f"{count} B"
    value, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"


def moment_of(milliseconds: int) -> datetime:
    """Return a moment (UTC) of milliseconds since 1970, the first or last that has a date for what has none."""
    return datetime.fromtimestamp(min(max(milliseconds, 0), _LATEST_MOMENT) / 1000, UTC)


def moment(milliseconds: int | None) -> str:
    """Return a moment for people, in UTC; nothing for none."""
    return f"{moment_of(milliseconds):%Y-%m-%d %H:%M:%S}" if milliseconds else ""
