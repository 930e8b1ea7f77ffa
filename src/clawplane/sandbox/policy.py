"""Say what a sandboxed process tree may see and use: plain values, no effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """Show a host file or directory, with its sub-mounts, read-only at `target`."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Writable:
    """Show a host directory writable at `target`; only for builds, whose result the host keeps."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Scratch:
    """A private, empty, writable tree at `target`, in memory, gone with the process tree."""

    target: str
    size: int = 64 * MIB
    inodes: int = 65_536


@dataclass(frozen=True, slots=True)
class Overlay:
    """Show `source` at `target` writable: changes go to private memory and vanish, the source stays untouched."""

    source: str
    target: str
    size: int = 256 * MIB
    inodes: int = 131_072


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link at `target` to `source`, a place in the sandbox; never in a tree of the host.

    Where other trees lie below `target` there is a private one of its own instead.
    """

    source: str
    target: str


Mount = ReadOnly | Writable | Scratch | Overlay | Link


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one process tree; None means unbounded.

    memory and output in bytes, cpus in cores (0.125 = an eighth of one), times in seconds.
    """

    memory: int | None = 512 * MIB
    cpus: float | None = None
    processes: int | None = 256
    wall: float | None = 1800.0
    cpu_time: float | None = None
    grace: float = 10.0
    output: int | None = 64 * MIB
    open_files: int = 4096
    file_size: int | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that is bound and listening on the sandbox's own loopback before user code starts."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that decides how one process tree is isolated."""

    mounts: tuple[Mount, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str = "/"
    limits: Limits = field(default_factory=Limits)
    listeners: tuple[Listener, ...] = ()
    host_name: str = "worker"
    names: Mapping[str, str] = field(default_factory=dict)
    """Host names the guest resolves through its own hosts file: name -> address."""
    network: Literal["loopback", "host"] = "loopback"
    """`host` shares the host's network; for dependency builds only."""


EndReason = Literal["exit", "signal", "timeout", "memory", "processes", "output", "cpu", "aborted", "setup"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a process tree ended, measured from outside; never the guest's own word.

    exit: it returned `exit_code`; signal: killed by `signal` that we did not send; timeout, cpu, memory, processes,
    output: it crossed that limit and was killed; aborted: somebody asked; setup: it never ran, `detail` says why.
    """

    reason: EndReason
    exit_code: int | None = None
    signal: int | None = None
    wall_ms: int = 0
    cpu_ms: int = 0
    peak_memory: int = 0
    detail: str = ""

    @property
    def succeeded(self) -> bool:
        """Tell whether the tree ended by itself with exit code 0."""
        return self.reason == "exit" and self.exit_code == 0
