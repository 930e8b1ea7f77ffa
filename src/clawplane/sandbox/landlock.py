"""Confine the calling process to listed trees with Landlock, a second layer behind the mount namespace.

Theory of operation
- A ruleset names the rights it handles; whatever is handled and not granted by a rule is refused. Rights the running
  kernel does not know are masked out by its ABI number.
- It is applied after the mounts and before the system call filter, which refuses the Landlock calls.
- /dev (null, ptys) and /proc are granted here, because no program lives without them and the mount namespace has
  already reduced both to the own ones. Pipes, sockets and other anonymous descriptors are not subject to path rules.
- TCP is left alone: guests listen and connect inside their own network namespace, where only loopback exists.
- From ABI 6 signals and abstract sockets that lead out of the domain are refused, too.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence
from typing import Final

from clawplane.sandbox import libc

_CREATE_RULESET: Final = 444  # the same number on every architecture
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_TRUNCATE: Final = 1 << 14  # ABI 3
_IOCTL_DEV: Final = 1 << 15  # ABI 5
_ALL_BY_ABI: Final = {2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_OLDEST_ABI: Final = 2  # ABI 1 forbids every rename between directories, which breaks installers
_SCOPES_FROM_ABI: Final = 6
_SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1 << 0
_SCOPE_SIGNAL: Final = 1 << 1

_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICES: Final = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
_PROC: Final = _READ | _WRITE_FILE | _TRUNCATE
_ON_A_FILE: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


def abi() -> int:
    """Return the Landlock ABI number of the running kernel, 0 when it has none."""
    try:
        return libc.syscall(_CREATE_RULESET, 0, 0, _ASK_VERSION, what="landlock_create_ruleset")
    except OSError:
        return 0


def restrict(read_only: Sequence[str], read_write: Sequence[str]) -> None:
    """Confine the calling process for good to these trees, /dev and /proc; do nothing where the kernel has no ABI 2.

    Raises OSError when a path does not exist or the kernel refuses; the caller must then end, not go on.
    """
    version = abi()
    if version < _OLDEST_ABI:
        return
    handled = _ALL_BY_ABI[min(version, max(_ALL_BY_ABI))]
    scopes = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if version >= _SCOPES_FROM_ABI else 0
    ruleset = _create(handled, scopes)
    try:
        for path in read_only:
            _allow(ruleset, path, _READ & handled)
        for path in read_write:
            _allow(ruleset, path, handled)
        for path, rights in (("/dev", _DEVICES), ("/proc", _PROC)):
            if os.path.exists(path):
                _allow(ruleset, path, rights & handled)
        zero = ctypes.c_ulong(0)
        libc.call("prctl", 38, ctypes.c_ulong(1), zero, zero, zero, what="prctl(PR_SET_NO_NEW_PRIVS)")
        libc.syscall(_RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    finally:
        os.close(ruleset)


def _create(handled: int, scopes: int) -> int:
    attribute = struct.pack("=QQQ", handled, 0, scopes)
    # an older kernel refuses a longer attribute unless the rest is zero, which it is when there are no scopes
    return libc.syscall(_CREATE_RULESET, attribute, len(attribute), 0, what="landlock_create_ruleset")


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _ON_A_FILE
        rule = struct.pack("=Qi", rights, descriptor)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0, what=f"landlock_add_rule({path})")
    finally:
        os.close(descriptor)
