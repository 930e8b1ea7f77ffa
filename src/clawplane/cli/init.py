"""`clawplane init`: write a new Worker that runs as it is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from clawplane.cli.output import say, show_json


def init(
    language: Literal["python", "node", "go"],
    name: str,
    *,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Write a new Worker into the directory NAME: entry, schemas, SDK, README.

    Nothing that exists is overwritten.

    Example: `clawplane init python prices`

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

    written = wiring.scaffold(language, name, Path.cwd() / name)
    if json:
        show_json({"directory": str(Path.cwd() / name), "files": [str(path) for path in written]})
        return
    for path in written:
        say(f"wrote {path}")
    say(f"Push it with: clawplane workers push {shlex.quote(name)}")
