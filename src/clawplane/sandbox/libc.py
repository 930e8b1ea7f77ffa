"""Reach the C library for the system calls that Python does not wrap.

Safe between fork and exec: nothing here allocates threads, opens files or caches beyond the library handle.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_with_lock_held = ctypes.PyDLL(None, use_errno=True)


def syscall(number: int, *arguments: object, what: str) -> int:
    """Call `number` with up to six arguments and return its result.

    Integers are passed as C longs; bytes, ctypes pointers and byref() pass as they are.
    Raises OSError that names `what` when the kernel refuses.
    """
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    _libc.syscall.restype = ctypes.c_long
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


def fork() -> int:
    """Fork without the hooks that Python modules run after a fork; for a process with one thread.

    The hooks of `threading` and `random` alone would touch, and so copy, half a megabyte. What they are for (locks of
    other threads, random numbers) only matters to user code, and that runs after an `os.fork` of its own.
    """
    pid: int = _with_lock_held.fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fork: {os.strerror(number)}")
    return pid
