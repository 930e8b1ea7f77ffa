"""Write an export where it was asked for: whole, or not at all.

A file appears under its name when its last byte is on the disk; until then it grows under a name of its own beside it,
which goes when anything fails. Pipes, terminals and devices cannot be replaced and are written as they are. An export
that breaks off is asked for again from its beginning, unless its bytes are already somewhere they cannot be taken back.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import BinaryIO

from clawplane.domain.errors import InvalidArgument, Unavailable

ATTEMPTS = 3

Chunks = Callable[[], AsyncGenerator[bytes, None]]
Told = Callable[[int], None]


def is_stream(output: Path | None) -> bool:
    """Tell whether `output` (None and `-` are standard output) is something that cannot be replaced."""
    if output is None or str(output) == "-":
        return True
    try:
        return not stat.S_ISREG(output.stat().st_mode) and not output.is_dir()
    except OSError:
        return False


async def write_stream(chunks: Chunks, output: Path | None) -> int:
    """Write an export to standard output or a device; return its size."""
    if output is None or str(output) == "-":
        return await _copy(chunks(), sys.stdout.buffer, lambda _: None)
    with output.open("wb") as file:
        return await _copy(chunks(), file, lambda _: None)


async def write_file(chunks: Chunks, output: Path, on_total: Told) -> int:
    """Write an export to a file that appears when it is complete; return its size. Raises InvalidArgument."""
    with _growing(output) as file:
        return await _attempts(chunks, file, on_total)


@contextmanager
def _growing(output: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the name `output` when the block has ended well."""
    target = Path(os.path.realpath(output))  # a link stays a link
    if target.is_dir():
        raise InvalidArgument(f"{output} is a directory.", hint="Name a file in it with --output.")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InvalidArgument(
            f"{output} cannot be written: {error.strerror or error}.", hint="Choose another place with --output."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


async def _attempts(chunks: Chunks, file: BinaryIO, on_total: Told) -> int:
    for left in reversed(range(ATTEMPTS)):
        try:
            return await _copy(chunks(), file, on_total)
        except Unavailable:
            if not left:
                raise
            file.seek(0)
            file.truncate()
    raise AssertionError("the last attempt returns or raises")


async def _copy(chunks: AsyncGenerator[bytes, None], file: BinaryIO, on_total: Told) -> int:
    total = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            file.write(chunk)
            total += len(chunk)
            on_total(total)
    file.flush()
    return total
