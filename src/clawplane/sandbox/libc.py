"""Reach the C library for the system calls that Python does not wrap.

Safe between fork and exec: nothing here allocates threads, opens files or caches beyond the library handle.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_with_lock_held = ctypes.PyDLL(None, use_errno=True)
_with_lock_held.syscall.restype = ctypes.c_long

for _name in ("capset", "mount", "pivot_root", "prctl", "setns", "signalfd", "umount2", "unshare"):
    getattr(_libc, _name)  # found once here, and not in every fork that calls it first

_CLONE3: Final = 435
_GET_TID_ADDRESS: Final = 40
_CLONE_CHILD_CLEARTID: Final = 0x0020_0000
_CLONE_CHILD_SETTID: Final = 0x0100_0000
_CLONE_INTO_CGROUP: Final = 0x2_0000_0000


def syscall(number: int, *arguments: object, what: str) -> int:
    """Call `number` with up to six arguments and return its result.

    Integers are passed as C longs; bytes, ctypes pointers and byref() pass as they are.
    Raises OSError that names `what` when the kernel refuses.
    """
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        number_of_error = ctypes.get_errno()
        raise OSError(number_of_error, f"{what}: {os.strerror(number_of_error)}")
    return result


def call(name: str, *arguments: object, what: str | None = None) -> int:
    """Call the libc function `name`, which returns -1 on failure, and raise OSError that names it."""
    result: int = getattr(_libc, name)(*arguments)
    if result == -1:
        number_of_error = ctypes.get_errno()
        raise OSError(number_of_error, f"{what or name}: {os.strerror(number_of_error)}")
    return result


def fork(into: int | None = None) -> int:
    """Fork without the hooks that Python modules run after a fork; for a process with one thread.

    The hooks of `threading` and `random` alone would touch, and so copy, half a megabyte. They are for locks of other
    threads and for random numbers; who forks an interpreter for a user gives it new ones.
    With `into`, the directory of a v2 cgroup, the child is born in that one; raises OSError where that cannot be.
    """
    pid: int = _with_lock_held.fork() if into is None else _clone_into(into)
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fork: {os.strerror(number)}")
    return pid


def _clone_into(cgroup: int) -> int:
    """Do what the C library's fork does, with one flag more; it keeps the id of the child's thread in memory."""
    address = ctypes.c_void_p()
    if _libc.prctl(_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0 or not address.value:
        raise OSError(errno.ENOSYS, "where the thread id is kept cannot be known")
    flags = _CLONE_CHILD_CLEARTID | _CLONE_CHILD_SETTID | _CLONE_INTO_CGROUP
    tid = address.value
    arguments = struct.pack("=11Q", flags, 0, tid, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    pid: int = _with_lock_held.syscall(ctypes.c_long(_CLONE3), arguments, ctypes.c_long(len(arguments)))
    return pid
