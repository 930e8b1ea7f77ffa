"""The words a supervisor says to a resident's pid 1, over the socket that the reports of inside/report.py come back on.

START: fork a member. Its descriptors: what it shall run (request.Start), the gate, standard input, output and error,
the control socket if there is one, and the cgroup.procs files it joins.
ADOPT: follow a process that is already a child of pid 1, a copy that an interpreter made of itself, and move it, to the
cgroup.procs files that come along.
SIGNAL: send a signal to everybody in the sandbox but pid 1, in one stroke.
FURNISH: finish a resident that waits half-made. Its descriptor: the mounts that are still missing. It comes first and
once, and only to a resident that was asked to wait.
Every order carries a number, by which the reports name the member from then on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

START: Final = b"S"
ADOPT: Final = b"A"
SIGNAL: Final = b"K"
FURNISH: Final = b"F"
LARGEST: Final = 64
MOST_DESCRIPTORS: Final = 16
_ORDER: Final = struct.Struct("=cQI")


@dataclass(frozen=True, slots=True)
class Order:
    """One order.

    `detail` is 1 for a START with a control socket, else 0, the inner pid of an ADOPT, the number of a SIGNAL.
    """

    kind: bytes
    number: int
    detail: int


def encode(order: Order) -> bytes:
    """Write one message."""
    return _ORDER.pack(order.kind, order.number, order.detail)


def decode(message: bytes) -> Order:
    """Read what `encode` wrote."""
    return Order(*_ORDER.unpack(message))


@dataclass(frozen=True, slots=True)
class Handed:
    """The descriptors of a START."""

    start: int
    gate: int
    streams: tuple[int, int, int]
    control: int | None
    cgroups: tuple[int, ...]


def handed(order: Order, descriptors: Sequence[int]) -> Handed:
    """Sort what came with a START."""
    start, gate, stdin, stdout, stderr, *rest = descriptors
    control = rest.pop(0) if order.detail else None
    return Handed(start, gate, (stdin, stdout, stderr), control, tuple(rest))
