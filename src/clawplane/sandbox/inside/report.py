"""The words a child of the zygote says to the supervisor, over a socket pair that no guest ever holds.

One message each, in this order: BORN with the pidfd of the guest's pid 1; LISTENING with one descriptor per listener;
READY when nothing of ours stands before user code any more; EXIT with how the guest's main process ended.
FAILED with a sentence may take the place of any of the first three. A closed socket without EXIT means: killed.

A resident's pid 1 goes on after READY, with the number of the order (see inside/orders.py) in each message: STARTED
with the member's inner pid and its pidfd, or REFUSED with a sentence; later MEMBER_ENDED with how it ended. SIGNALLED
answers a SIGNAL.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

BORN: Final = b"B"
LISTENING: Final = b"L"
READY: Final = b"R"
EXIT: Final = b"E"
FAILED: Final = b"F"
STARTED: Final = b"S"
REFUSED: Final = b"N"
MEMBER_ENDED: Final = b"M"
SIGNALLED: Final = b"K"
LARGEST: Final = 4096
MOST_DESCRIPTORS: Final = 64
_ENDED: Final = struct.Struct("=iiQQ")
_NUMBERED: Final = struct.Struct("=Q")
_STARTED: Final = struct.Struct("=QI")


@dataclass(frozen=True, slots=True)
class Ended:
    """How the main process ended; cpu_ms and peak_memory (bytes, of the largest process) are rough figures."""

    exit_code: int | None
    signal: int | None
    cpu_ms: int
    peak_memory: int


def say(descriptor: int, kind: bytes, content: bytes = b"", descriptors: Sequence[int] = ()) -> None:
    """Send one message; a supervisor that is gone is no error, because it takes us with it."""
    channel = socket.socket(fileno=descriptor)
    try:
        socket.send_fds(channel, [kind + content[: LARGEST - 1]], list(descriptors))
    except (BrokenPipeError, ConnectionError):
        pass
    finally:
        channel.detach()


def encode_end(status: int, used: resource.struct_rusage) -> bytes:
    """Describe a wait status and what was used until then."""
    code = os.waitstatus_to_exitcode(status)
    cpu = int((used.ru_utime + used.ru_stime) * 1000)
    return _ENDED.pack(max(code, -1), -code if code < 0 else 0, cpu, used.ru_maxrss * 1024)


def decode_end(content: bytes) -> Ended:
    """Read what `encode_end` wrote."""
    code, number, cpu, peak = _ENDED.unpack(content)
    return Ended(None if number else code, number or None, cpu, peak)


def numbered(number: int, content: bytes) -> bytes:
    """Put the number of an order before what is said about it."""
    return _NUMBERED.pack(number) + content


def split_number(content: bytes) -> tuple[int, bytes]:
    """Undo `numbered`."""
    (number,) = _NUMBERED.unpack_from(content)
    return number, content[_NUMBERED.size :]


def encode_started(number: int, pid: int) -> bytes:
    """Say which inner pid an order led to."""
    return _STARTED.pack(number, pid)


def decode_started(content: bytes) -> tuple[int, int]:
    """Read what `encode_started` wrote."""
    number, pid = _STARTED.unpack(content)
    return number, pid
