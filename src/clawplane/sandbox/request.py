"""Say in bytes what a child of a zygote or resident shall become; written by the supervisor, read by it alone.

The bytes are Python's own compact form, which one call in C reads: each page that a fork touches is copied. They
travel in a memory file, so that a zygote, which outlives its guests and is copied into each, never holds the
environment of any of them.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clawplane.sandbox.identity import Identity
from clawplane.sandbox.policy import Limits, Link, Listener, Mount, Overlay, Policy, ReadOnly, Scratch, Writable


@dataclass(frozen=True, slots=True)
class Command:
    """Replace the child by another program; argv[0] is looked up in the guest's own PATH."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """Run a Python file as `__main__` in the warm interpreter, as if `interpreter` had been given it."""

    path: str
    arguments: tuple[str, ...]
    interpreter: str
    site_directories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Residence:
    """Stay as pid 1 and start members when asked (see inside/resident.py); `waits` for its last mounts before that."""

    waits: bool = False


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Call `entry_point`, "module:function" of a preloaded module, in the warm interpreter with the control socket."""

    entry_point: str
    interpreter: str
    site_directories: tuple[str, ...]


Program = Command | Script | Residence | Interpreter


@dataclass(frozen=True, slots=True)
class Start:
    """What one main process runs, and where: all it knows when the isolation around it stands."""

    program: Program
    environment: Mapping[str, str]
    working_directory: str


@dataclass(frozen=True, slots=True)
class Request:
    """One guest: how it is isolated, what it runs, who it is, and whether cgroups hold its limits."""

    policy: Policy
    program: Program
    identity: Identity
    cgroups: bool


_MOUNTS: Final[Mapping[str, type[Mount]]] = {
    each.__name__: each for each in (ReadOnly, Writable, Scratch, Overlay, Link)
}
_VERSION: Final = 2
"""Of the format: every Python reads it, and a profile's need not be the runner's. Later ones intern strings again that
were interned here, and to enter one into the table of all names touches, and so copies, two pages."""
_PROGRAMS: Final[Mapping[str, type[Program]]] = {
    each.__name__: each for each in (Command, Script, Residence, Interpreter)
}


def encode(request: Request) -> bytes:
    """Write `request`; text that is not valid Unicode survives."""
    policy = request.policy
    return marshal.dumps(
        {
            "mounts": [(type(each).__name__, _values(each)) for each in policy.mounts],
            "environment": dict(policy.environment),
            "working_directory": policy.working_directory,
            "limits": _values(policy.limits),
            "listeners": [[each.host, each.port] for each in policy.listeners],
            "host_name": policy.host_name,
            "names": dict(policy.names),
            "network": policy.network,
            "program": [type(request.program).__name__, _values(request.program)],
            "identity": _values(request.identity),
            "cgroups": request.cgroups,
        },
        _VERSION,
    )


def decode(data: bytes) -> Request:
    """Read what `encode` wrote."""
    raw: dict[str, Any] = marshal.loads(data)
    return Request(
        policy=Policy(
            mounts=tuple(_MOUNTS[name](*values) for name, values in raw["mounts"]),
            environment=raw["environment"],
            working_directory=raw["working_directory"],
            limits=Limits(*raw["limits"]),
            listeners=tuple(Listener(host, port) for host, port in raw["listeners"]),
            host_name=raw["host_name"],
            names=raw["names"],
            network=raw["network"],
        ),
        program=_program(*raw["program"]),
        identity=Identity(*raw["identity"]),
        cgroups=raw["cgroups"],
    )


def encode_mounts(mounts: Sequence[Mount]) -> bytes:
    """Write the mounts that a waiting resident is told later."""
    return marshal.dumps([(type(each).__name__, _values(each)) for each in mounts], _VERSION)


def decode_mounts(data: bytes) -> tuple[Mount, ...]:
    """Read what `encode_mounts` wrote."""
    return tuple(_MOUNTS[name](*values) for name, values in marshal.loads(data))


def encode_start(start: Start) -> bytes:
    """Write what a member of a resident shall run."""
    return marshal.dumps(
        {
            "program": [type(start.program).__name__, _values(start.program)],
            "environment": dict(start.environment),
            "working_directory": start.working_directory,
        },
        _VERSION,
    )


def decode_start(data: bytes) -> Start:
    """Read what `encode_start` wrote."""
    raw: dict[str, Any] = marshal.loads(data)
    return Start(_program(*raw["program"]), raw["environment"], raw["working_directory"])


def memory_file(content: bytes) -> int:
    """Return the descriptor of a new memory file that holds `content`."""
    descriptor = os.memfd_create("request", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    return descriptor


def _program(kind: str, values: Sequence[Any]) -> Program:
    return _PROGRAMS[kind](*values)


def _values(each: Mount | Program | Limits | Identity) -> tuple[Any, ...]:
    """Return the members of a data class in their order."""
    return tuple(getattr(each, name) for name in each.__dataclass_fields__)
