"""Check that a compiled Worker can start on this host at all, before anybody waits for it."""

from __future__ import annotations

import stat
import struct

from clawplane.builder.errors import ManifestRefused

_MACHINES = {62: "x86_64", 183: "aarch64"}
_ELF64_LITTLE = b"\x7fELF\x02\x01"
_EXECUTABLE, _POSITION_INDEPENDENT = 2, 3
HEADER_BYTES = 64


def check_executable(header: bytes, mode: int, machine: str, *, file: str = "main") -> None:
    """Raise ManifestRefused unless the first 64 bytes and the mode are those of a program for `machine` (uname -m)."""
    if not header.startswith(b"\x7fELF"):
        raise ManifestRefused(file, 0, "is not a Linux program (ELF).", _how(machine))
    if not header.startswith(_ELF64_LITTLE) or len(header) < HEADER_BYTES:
        raise ManifestRefused(file, 0, "is not a complete 64-bit little-endian program.", _how(machine))
    kind, target = struct.unpack_from("<HH", header, 16)
    if kind not in {_EXECUTABLE, _POSITION_INDEPENDENT}:
        raise ManifestRefused(file, 0, "is an object file or library, not a program.", _how(machine))
    built_for = _MACHINES.get(target, f"machine {target}")
    if built_for != machine:
        raise ManifestRefused(file, 0, f"was built for {built_for}; this host is {machine}.", _how(machine))
    if not mode & stat.S_IXUSR:
        raise ManifestRefused(
            file, 0, "is not executable.", "Set the bit before zipping (`chmod 755 main`) and keep modes in the ZIP."
        )


def _how(machine: str) -> str:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    return f"Build it with `CGO_ENABLED=0 GOOS=linux GOARCH={architecture} go build -o main .`"
