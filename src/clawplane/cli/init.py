"""`clawplane init`: write a new Worker that runs as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from clawplane.cli.output import fail, say, show_json
from clawplane.domain.errors import ClawplaneError


def init(
    language: Literal["python", "node", "go"],
    name: str,
    *,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Write a new Worker into the directory NAME: entry, schemas, SDK, README.

    Parameters
    ----------
    language
        python, node or go.
    name
        The Worker's name and directory.
    json
        Write JSON for machines.
    """
    from clawplane import wiring  # noqa: PLC0415 - the composition root imports every layer

    try:
        written = wiring.scaffold(language, name, Path.cwd() / name)
    except ClawplaneError as error:
        fail(error)
        raise SystemExit(1) from None
    if json:
        show_json({"directory": str(Path.cwd() / name), "files": [str(path) for path in written]})
        return
    for path in written:
        say(f"wrote {path}")
    say(f"Push it with: clawplane workers push {name}")
