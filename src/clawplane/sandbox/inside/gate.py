"""The descriptor that a main process of a guest holds until user code starts, and what is said through it.

It is closed by exec or right before user code; whoever reads at its other end learns by that that set-up is over. A
sentence that comes before says that it failed. No user code ever holds it.
"""

from __future__ import annotations

import os
from typing import Final, NoReturn

from clawplane.sandbox.inside import root

GATE: Final = 3
"""Its number in every main process."""


def fail(problem: BaseException, descriptor: int = GATE) -> NoReturn:
    """End the calling process before user code, with a sentence for whoever waits at the gate, if anybody does."""
    try:
        os.write(descriptor, sentence(problem))
    finally:
        os._exit(1)


def sentence(problem: BaseException) -> bytes:
    """Put a failure of set-up in words."""
    if isinstance(problem, OSError) and problem.filename is not None:
        text = f"{problem.filename}: {problem.strerror}"
    elif isinstance(problem, OSError) and problem.strerror:
        text = problem.strerror
    else:
        text = f"{problem}" if isinstance(problem, root.SetupError) else f"{type(problem).__name__}: {problem}"
    return text.encode(errors="replace")
