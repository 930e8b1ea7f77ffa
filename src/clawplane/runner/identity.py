"""Give a runner a name that outlives it, and its data directory to one process only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clawplane.domain.clock import Clock
from clawplane.domain.errors import Conflict, InvalidArgument
from clawplane.domain.ids import RunnerId, is_ulid, new_ulid


@contextmanager
def own(data: Path) -> Iterator[None]:
    """Hold `data` for this process; raises Conflict when another runner works in it."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data / "runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidArgument(
            f"The runner's data directory {data} cannot be used: {error.strerror}.", hint="Choose another with --data."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"Another runner works in {data}.", hint="Stop it, or give this one its own --data directory."
            ) from None
        yield
    finally:
        os.close(descriptor)


def runner_id(data: Path, clock: Clock) -> RunnerId:
    """Return the id kept in `data`, made at the first start."""
    file = data / "runner-id"
    try:
        kept = file.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        kept = ""
    if is_ulid(kept):
        return RunnerId(kept)
    made = new_ulid(clock.now_ms())
    fresh = data / "runner-id.new"
    with fresh.open("w", encoding="ascii") as out:
        out.write(f"{made}\n")
        out.flush()
        os.fsync(out.fileno())
    fresh.rename(file)
    return RunnerId(made)
